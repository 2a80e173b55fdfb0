"""Holds every option of ours: name, type and range, default, unit and meaning.

From here come the checks, the defaults of the settings, `properties/rawp.yaml` and `docs/options.md` (see `reference`).
Standard library alone, so that `reference` and the command line need neither torch nor RecBole.
A test holds the words of other packages equal.
"""

from __future__ import annotations

from recbole_rawp.config.option import (
    BELOW_ONE,
    BOOL,
    COUNT,
    INNER_SHARE,
    NAME_OR_FILE,
    NOT_NEGATIVE,
    PATH,
    POSITIVE,
    RADIUS,
    RADIUS_OR_0,
    SHARE,
    SUITE,
    TIMES,
    WORD,
    Option,
    Section,
    list_of,
    one_of,
    or_null,
    or_word,
    targets,
    weights_by_pattern,
)
from recbole_rawp.errors import suggestion

PREFIXES = ("rawp_", "attack_", "ft_", "criticality_")
AUTO = "auto"  # the rawp_radius that is found in training
START = 0.02  # the first radius that its search tries, a share of the norm

GRANULARITIES = ("tensor", "row", "global", "element", "sign")
DIRECTIONS = ("gradient", "adam", "noise")
STARTS = ("weights", "last", "free")
LAYER_WEIGHTS = ("uniform", "norm", "criticality")
LEARNERS = ("sgd", "adam", "adamw", "adagrad", "rmsprop")
TARGET = "hidden | embeddings | all | activations | patterns"

# fmt: off
SECTIONS = (
    Section("Defense", (
        Option("defense", NAME_OR_FILE, "rawp_ft",
               "A file of properties/defense: none, noise, apr, rat, awp, sam, asam, randbet, clipping, "
               "rounding_noise, rawp, rawp_ft, rawp_reference, rawp_ft_reference; or a YAML file of your own."),
    )),
    Section("Stage 1: adversarial training with random, weighted perturbations of weights", (
        Option("rawp_radius", or_word(AUTO, RADIUS), 0.1,
               "gamma: size of the perturbation, in rawp_radius_unit; auto finds it in training.", "rawp_radius_unit"),
        Option("rawp_clean_budget", INNER_SHARE, 0.01,
               "Share of the plain model's clean valid score that rawp_radius=auto may cost.", "share of the score"),
        Option("rawp_keep_plain", BOOL, False,
               "Keep the plain model where no radius kept that budget; else the hardened one that cost least."),
        Option("rawp_radius_unit", one_of(("relative", "absolute")), "relative",
               "Fraction of the norm of the perturbed group, or the norm itself."),
        Option("rawp_radius_jitter", BELOW_ONE, 0.2,
               "j: the radius is multiplied by T ~ U(1 - j, 1 + j).", "share of the radius"),
        Option("rawp_mask_probability", SHARE, 0.5, "p: chance of each tensor to be perturbed.", "probability"),
        Option("rawp_mask_every", one_of(("epoch", "batch")), "epoch", "How often T and the masks are drawn."),
        Option("rawp_target", targets(TARGET), "hidden",
               "Perturbed weights; or fnmatch patterns over parameter names."),
        Option("rawp_layer_weights", weights_by_pattern(LAYER_WEIGHTS), "uniform",
               "omega: relative radius per tensor; or {pattern: weight}."),
        Option("rawp_granularity", one_of(GRANULARITIES), "tensor",
               "What one norm spans; global is SAM, element is ASAM, sign bounds each entry."),
        Option("rawp_direction", one_of(DIRECTIONS), "gradient", "Direction of ascent; noise is the control."),
        Option("rawp_steps", COUNT, 1, "Steps of projected gradient ascent.", "steps"),
        Option("rawp_start", one_of(STARTS), "weights",
               "Where stage 1 begins the ascent of a batch: at the weights; at the last batch's perturbation; or free, "
               "that perturbation moved along the gradient of the training step itself, without a pass of its own."),
        Option("rawp_ascent_fraction", SHARE, 1.0,
               "Share of each batch that the ascent uses: every round(1 / share)-th row.", "share of the batch"),
        Option("rawp_clean_weight", NOT_NEGATIVE, 0.0, "Weight of L(w)."),
        Option("rawp_adversarial_weight", POSITIVE, 1.0, "Weight of L(w + delta)."),
        Option("rawp_perturbation", WORD, "ball",
               "What the loss is taken at: ball, the worst point within rawp_radius; a change of stored weights, such "
               "as bit_errors_int8, int4, int4_noise, pruning (docs/production.md); or none."),
        Option("rawp_perturbation_level", or_null(SHARE), None,
               "Rate of bit errors, or share that is pruned; null: what has no levels.", "rate or share"),
        Option("rawp_weight_clip", or_null(POSITIVE), None,
               "Bound of the size of each perturbed weight, kept after each step; null: none.", "size of a weight"),
        Option("rawp_warmup_epochs", TIMES, 0,
               "Epochs of plain training first; none of their models is kept as the best one.", "epochs"),
        Option("rawp_pretraining", BOOL, False,
               "Harden stages of pretraining (S3Rec, RaCT), too; else they are plain."),
    )),
    Section("Criticality: how much the loss rises at the worst small change of one module", (
        Option("criticality_radius", RADIUS, 0.008,
               "Size of that change, a fraction of the norm of each group.", "share of the norm"),
        Option("criticality_granularity", one_of(("row", "tensor")), "row",
               "What one norm spans: a row (the paper) or a tensor (RiFT, radius 0.1)."),
        Option("criticality_steps", COUNT, 10,
               "Steps of projected gradient ascent, each over attack_batches batches.", "steps"),
        Option("criticality_every", COUNT, 5,
               "Epochs between two measurements for rawp_layer_weights: criticality.", "epochs"),
        Option("criticality_threats", or_null(SUITE), None,
               "A suite that rank tries on each module by itself, such as modules: does criticality tell what is "
               "vulnerable? Null: none."),
    )),
    Section("Stage 2: adversarial fine-tuning of the least robust module", (
        Option("ft_rounds", TIMES, 0,
               "Times to rank the modules and repair the weakest; 0: no stage 2 (rawp_ft: 1).", "rounds"),
        Option("ft_modules", COUNT, 1,
               "Modules repaired together in one round, weakest first; more than there are: all.", "modules"),
        Option("ft_epochs", COUNT, 5,
               "Epochs of fine-tuning in each round; the learning rate falls to a tenth at half-time.", "epochs"),
        Option("ft_patience", or_null(COUNT), None,
               "Epochs in a row without a better robust valid score, stage 1's included, that end a round; null: none "
               "does (rawp_ft: 2).", "epochs"),
        Option("ft_radius", or_null(RADIUS), None,
               "Radius of the perturbation in stage 2, and of the attack that picks its best epoch; null: rawp_radius, "
               "or 0.1 where that is auto and no stage 1 found it.",
               "rawp_radius_unit"),
        Option("ft_steps", or_null(COUNT), None, "Steps of ascent in stage 2; null: rawp_steps.", "steps"),
        Option("ft_learner", one_of(LEARNERS), "sgd", "Optimizer; sgd has momentum, the others are RecBole's."),
        Option("ft_learning_rate", POSITIVE, 0.01, "Its learning rate."),
        Option("ft_momentum", BELOW_ONE, 0.9, "Momentum of sgd."),
        Option("ft_weight_decay", NOT_NEGATIVE, 0.0005, "Weight decay."),
        Option("ft_clean_tolerance", SHARE, 0.985,
               "Share of stage 1's clean valid score that the result must keep.", "share of the score"),
        Option("ft_alphas", COUNT, 10,
               "Steps from the old weights to the tuned ones, each of which is scored (rawp_ft: 2).", "steps"),
        Option("ft_attack_steps", COUNT, 1,
               "Steps of the attack that picks epoch and interpolation: 1 is FGSM, more are APGD.", "steps"),
    )),
    Section("Evaluation under attack: a suite, and what to change in it", (
        Option("attack", SUITE, "quick",
               "A file of properties/attack: quick, standard, strongest, published, production; or methods as quick "
               "uses them: noise, fgsm, bim, pgd, mim, apgd, random_search, transfer, bf16, int8, int4, pruning, ..."),
        Option("attack_radii", or_null(list_of(RADIUS_OR_0, ""), "list of floats in [0, 1e6], or null"), None,
               "Radii, in attack_unit; 0 is always measured. Null, here and below: what the suite says.",
               "attack_unit"),
        Option("attack_target", or_null(targets(TARGET), f"{TARGET} | null"), None,
               "What is attacked; null in quick: rawp_target."),
        Option("attack_granularity", one_of((*GRANULARITIES, "null")), None,
               "What one norm spans; sign bounds each entry."),
        Option("attack_unit", one_of(("relative", "absolute", "null")), None,
               "Radii are shares of the norm of each group, or the norm itself."),
        Option("attack_scope", one_of(("universal", "per_user", "null")), None,
               "One change for all users, or one for each."),
        Option("attack_loss", one_of(("training", "ranking", "worst", "null")), None,
               "What is climbed: the training loss (per user: the cross entropy), a smooth form of the valid metric, "
               "or each of them, and the lower metric counts."),
        Option("attack_labels", one_of(("pseudo", "truth", "null")), None,
               "Labels of the candidates per user: the model's own answers, or the true ones."),
        Option("attack_steps", or_null(COUNT), None, "Steps of methods that iterate, projected after each.", "steps"),
        Option("attack_restarts", or_null(COUNT), None,
               "Starts of pgd, apgd and random_search; the strongest counts.", "starts"),
        Option("attack_batches", COUNT, 10,
               "Training batches whose loss gradient a universal attack, and a ranking of modules, follows.",
               "batches"),
        Option("attack_users", COUNT, 512,
               "Users of the valid data whose ranking a universal attack on the ranking loss looks at.", "users"),
        Option("attack_negatives", COUNT, 99,
               "Candidates drawn where the evaluation ranks all items: for each positive, per user; and for each user "
               "of the ranking loss of a model without full_sort_predict.", "items"),
        Option("attack_checkpoint", or_null(PATH), None,
               "Another checkpoint of the same model, for drift."),
        Option("attack_candidates", or_null(PATH), None,
               "File of candidates to rank: candidates.npz of a run, or a published *.test.negative; sought here, then "
               "in the data set's folder, also without its name (test.negative); null: drawn once."),
    )),
    Section("Output", (
        Option("rawp_output_dir", or_null(PATH), None,
               "Folder of the run, new or empty; null: runs/MODEL-DATASET-DEFENSE-TIME."),
    )),
)
# fmt: on
OPTIONS = {option.name: option for section in SECTIONS for option in section.options}
# What the file of a defense may set: how a model is trained, not how it is measured nor where it goes.
OF_A_DEFENSE = tuple(
    name
    for name in OPTIONS
    if name not in ("defense", "rawp_output_dir", "criticality_threats") and not name.startswith("attack")
)


def no_such(key: str) -> str:
    """Return the line about a key that is none of ours."""
    return f"{key}: no such option.{suggestion(key, OPTIONS)} All options: properties/rawp.yaml"

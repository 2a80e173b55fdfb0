"""What does each option accept?  Types, ranges and spelling; `properties/rawp.yaml` says the same to the user."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_rawp.core import ascent, ball, selection
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.threats.adversarial.methods import METHODS

PREFIXES = ("rawp_", "attack_", "ft_", "criticality_")
GRID = ("models", "datasets", "defenses", "seeds")  # of `recbole-rawp compare`
AUTO = "auto"  # the rawp_radius that is found in training
COMMAND_LINE_ONLY = {"baseline", "resume", *GRID}
MEASURED = (  # RecBole's settings that say which data are measured, and what is ranked
    *("eval_args", "repeatable", "benchmark_filename", "threshold", "val_interval", "filter_inter_by_user_or_item"),
    *("user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter"),
)
# Keys that RecBole reads without giving them a default or listing them.
UNLISTED = {"model", "dataset", "config_files", "nproc", "world_size", "ip", "port", "offset", "local_rank"}

logger = logging.getLogger()


@dataclass(frozen=True)
class Rule:
    """What a key accepts: `text` as it stands in rawp.yaml, `accepts` as a test."""

    text: str
    accepts: Callable[[Any], bool]


def number(kind: type, text: str, accepts: Callable[[float], bool]) -> Rule:
    """Return the rule for a finite number of `kind` (an int passes for a float, a bool for neither)."""
    kinds = (int, float) if kind is float else (int,)
    return Rule(
        text, lambda v: isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) and accepts(float(v))
    )


def choice(options: Iterable[str]) -> Rule:
    """Return the rule for one of some words; `null` among them stands for None."""
    options = tuple(options)
    return Rule(" | ".join(options), lambda v: (v if v is not None else "null") in options and v != "null")


def patterns(text: str, *, optional: bool = False) -> Rule:
    """Return the rule for a target: a word or pattern, or a list of them."""

    def accepts(value: Any) -> bool:
        """Tell whether `value` is a word, a list of words or, where allowed, nothing."""
        return is_word(value) or is_list_of(is_word)(value) or (optional and value is None)

    return Rule(text, accepts)


def is_word(value: Any) -> bool:
    """Tell whether `value` is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return the test for a list, not empty, whose entries all pass."""
    return lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(accepts, value))


NOT_NEGATIVE = number(float, "float >= 0", lambda v: v >= 0)
POSITIVE = number(float, "float > 0", lambda v: v > 0)
SHARE = number(float, "float in (0, 1]", lambda v: 0 < v <= 1)
COUNT = number(int, "int >= 1", lambda v: v >= 1)
TIMES = number(int, "int >= 0", lambda v: v >= 0)
COUNT_OR_NONE = Rule("int >= 1 or null", lambda v: v is None or COUNT.accepts(v))
RADIUS_OR_NONE = Rule("float > 0 or null", lambda v: v is None or POSITIVE.accepts(v))

RULES: dict[str, Rule] = {
    "defense": Rule("name", is_word),
    "rawp_radius": Rule("float > 0 or auto", lambda v: v == AUTO or POSITIVE.accepts(v)),
    "rawp_clean_budget": number(float, "float in (0, 1)", lambda v: 0 < v < 1),
    "rawp_radius_unit": choice(("relative", "absolute")),
    "rawp_radius_jitter": number(float, "float in [0, 1)", lambda v: 0 <= v < 1),
    "rawp_mask_probability": SHARE,
    "rawp_mask_every": choice(("epoch", "batch")),
    "rawp_target": patterns("hidden | embeddings | all | activations | patterns"),
    "rawp_layer_weights": Rule(
        "uniform | norm | criticality | mapping",
        lambda v: (
            v in selection.LAYER_WEIGHTS
            if isinstance(v, str)
            else isinstance(v, Mapping)
            and any(v.values())
            and all(is_word(k) and NOT_NEGATIVE.accepts(w) for k, w in v.items())
        ),
    ),
    "rawp_granularity": choice(ball.GRANULARITIES),
    "rawp_direction": choice(ascent.DIRECTIONS),
    "rawp_steps": COUNT,
    "rawp_ascent_fraction": SHARE,
    "rawp_clean_weight": NOT_NEGATIVE,
    "rawp_adversarial_weight": POSITIVE,
    "rawp_warmup_epochs": TIMES,
    "rawp_pretraining": Rule("bool", lambda v: isinstance(v, bool)),
    "criticality_radius": POSITIVE,
    "criticality_granularity": choice(("row", "tensor")),
    "criticality_steps": COUNT,
    "criticality_every": COUNT,
    "ft_rounds": TIMES,
    "ft_modules": COUNT,
    "ft_epochs": COUNT,
    "ft_radius": RADIUS_OR_NONE,
    "ft_steps": COUNT_OR_NONE,
    "ft_learner": choice(("sgd", "adam", "adamw", "adagrad", "rmsprop")),
    "ft_learning_rate": POSITIVE,
    "ft_momentum": number(float, "float in [0, 1)", lambda v: 0 <= v < 1),
    "ft_weight_decay": NOT_NEGATIVE,
    "ft_clean_tolerance": SHARE,
    "ft_attack_steps": COUNT,
    "attack": Rule(
        "suite, YAML file, or list of " + " | ".join(METHODS),
        lambda v: is_word(v) or (is_list_of(is_word)(v) and len(set(v)) == len(v)),
    ),
    "attack_radii": Rule("list of floats >= 0, or null", lambda v: v is None or is_list_of(NOT_NEGATIVE.accepts)(v)),
    "attack_target": patterns("hidden | embeddings | all | activations | patterns | null", optional=True),
    "attack_granularity": choice((*ball.GRANULARITIES, "null")),
    "attack_unit": choice(("relative", "absolute", "null")),
    "attack_scope": choice(("universal", "per_user", "null")),
    "attack_labels": choice(("pseudo", "truth", "null")),
    "attack_steps": COUNT_OR_NONE,
    "attack_restarts": COUNT_OR_NONE,
    "attack_batches": COUNT,
    "attack_negatives": COUNT,
    "attack_candidates": Rule("path or null", lambda v: v is None or is_word(v)),
    "rawp_output_dir": Rule("path or null", lambda v: v is None or is_word(v)),
}


def check_values(values: Mapping[str, Any]) -> None:
    """Raise InputError for the first of our keys whose value has the wrong type or range."""
    for key, rule in RULES.items():
        if key in values and not rule.accepts(values[key]):
            raise InputError(
                f"{key}: {values[key]!r} is not valid; expected {rule.text}.{_word_hint(rule, values[key])}"
            )
    if values.get("rawp_granularity") in ("global", "element") and values.get("rawp_layer_weights") != "uniform":
        raise InputError(
            f"rawp_layer_weights: {values['rawp_layer_weights']!r} needs one norm per tensor, but rawp_granularity is "
            f"{values['rawp_granularity']!r}. Use rawp_layer_weights=uniform or rawp_granularity=tensor."
        )
    if values.get("rawp_target") == "activations":
        _check_activations(values)


def _check_activations(values: Mapping[str, Any]) -> None:
    """Raise InputError for an option that shifts of activations, one for each row of the batch, cannot have."""
    possible = {
        "rawp_granularity": ("row", "sign"),
        "rawp_direction": ("gradient", "noise"),
        "rawp_ascent_fraction": (1,),
    }
    for key, known in possible.items():
        if values[key] not in known:
            raise InputError(
                f"{key}: {values[key]!r} does not go with rawp_target=activations. "
                f"Use {key}={' or '.join(map(str, known))}."
            )


def _word_hint(rule: Rule, value: Any) -> str:
    return suggestion(value, rule.text.split(" | ")) if isinstance(value, str) and "|" in rule.text else ""


def check_names(given: Iterable[str], recbole_keys: Iterable[str]) -> None:
    """Raise InputError for a misspelt key of ours; warn about a near miss of a key of RecBole's."""
    known = set(recbole_keys) | UNLISTED
    for key in given:
        if not isinstance(key, str):
            raise InputError(f"{key!r}: option names are words.")
        if key in COMMAND_LINE_ONLY:
            raise InputError(f"{key}: not a setting. Use --{key}, or the argument of the function.")
        if key in RULES or key in known:
            continue
        ours = difflib.get_close_matches(key, RULES, n=1, cutoff=0.8)
        theirs = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key.startswith(PREFIXES) or (ours and not theirs):
            raise InputError(f"{key}: no such option.{suggestion(key, RULES)} All options: properties/rawp.yaml")
        if theirs:
            logger.warning(f"{key}: not an option that RecBole knows. Did you mean '{theirs[0]}'?")

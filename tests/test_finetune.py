"""Only the chosen module is repaired, and the result is chosen as it says."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import recbole.trainer
import torch
from torch import nn

import recbole_rawp
from recbole_rawp.config.settings import Attack
from recbole_rawp.core import ball
from recbole_rawp.core.objective import Objective, Recipe
from recbole_rawp.evaluation import robustness
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.report.sections.stage2 import outcome
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.training.callbacks import FitArguments
from recbole_rawp.training.stage2 import interpolation, tuning, valid_scores
from recbole_rawp.training.stage2.progress import Progress, summary
from recbole_rawp.training.stage2.valid_scores import ValidScores
from tests.training import made


def repaired(settings, name, **overrides):
    """Run both stages; return trainer, and the state before and after stage 2."""
    config = RAWPConfig(config_dict=settings(name, checkpoint_dir="saved", attack_batches=2, **overrides))
    trainer, data = made(config)
    trainer.saved_model_file = "saved/model.pth"
    trainer.fit(data.train, data.valid)
    before = torch.load("saved/model-stage1.pth", weights_only=False)["state_dict"]
    after = torch.load("saved/model.pth", weights_only=False)["state_dict"]
    return trainer, before, after


@pytest.mark.parametrize("name", ["NeuMF", "DCN", "MKR", "RecVAE"])
def test_only_the_chosen_modules_weights_differ_buffers_included(settings, name, monkeypatch):
    monkeypatch.setattr(ValidScores, "keeps", lambda *_, **__: True)
    monkeypatch.setattr(ValidScores, "better", lambda self, score, than: True)  # whatever stage 2 did is kept
    trainer, before, after = repaired(settings, name, ft_learning_rate=0.1)
    (chosen,) = [row for row in trainer.state.progress.ranking if row.repaired]
    assert chosen == trainer.state.progress.ranking[0]
    owner = chosen.module
    assert before.keys() == after.keys()
    differ = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.rpartition(".")[0] for key in differ if not key.startswith("prior.")} == {owner}
    assert set(chosen.weights.split(",")) <= differ
    assert name == "RecVAE" or not any(key.startswith("prior.") for key in differ)
    if name == "DCN":
        assert any("running_mean" in key for key in before)
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if not n.startswith("prior."))
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held <= {id(p) for p in trainer.model.parameters()} and (name == "RecVAE" or len(held) > 2)
    assert trainer.callbacks[-1].keeps_best(trainer) is False  # those of stage 1 are back


def test_the_repaired_model_is_the_best_one_with_its_clean_score(settings):
    trainer, before, after = repaired(settings, "NeuMF", ft_learning_rate=0.05, epochs=4)
    progress = trainer.state.progress
    (chosen,) = [row for row in progress.sweep if row.chosen]
    name = next(row.weights for row in progress.ranking if row.repaired)
    weight = trainer.model.get_parameter(name)
    assert torch.equal(weight, after[name]) and torch.equal(before[name], progress.original[name])
    assert trainer.best_valid_score == pytest.approx(chosen.clean, abs=1e-4)
    assert trainer.best_valid_score == trainer.best_valid_result[trainer.valid_metric]
    with interpolation.undone(trainer.model, progress):
        assert torch.equal(weight, before[name])
    assert torch.equal(weight, after[name])


def test_without_a_checkpoint_the_end_is_the_same(settings):
    _, _, after = repaired(settings, "NeuMF", epochs=4, eval_step=1, learning_rate=0.05)
    config = RAWPConfig(config_dict=settings("NeuMF", epochs=4, attack_batches=2, eval_step=1, learning_rate=0.05))
    trainer, data = made(config)
    seen = []
    trainer.fit(data.train, data.valid, saved=False, callback_fn=lambda epoch, score: seen.append(epoch))
    assert all(torch.equal(after[key], value) for key, value in trainer.model.state_dict().items())
    assert seen == [0, 1, 2, 3] and not Path(trainer.saved_model_file).exists()


def test_a_trainer_that_fits_twice_repairs_twice(settings):
    trainer, data = made(RAWPConfig(config_dict=settings("NeuMF", attack_batches=2, checkpoint_dir="saved")))
    for _ in range(2):
        trainer.fit(data.train, data.valid)
        assert trainer.state.progress.round == 1 and len(trainer.state.progress.ranking) == 3
        assert len(list(Path("saved").glob("*.pth"))) == 2
        for file in Path("saved").glob("*.pth"):
            file.unlink()


def test_stage_2_starts_from_the_best_weights_not_the_last(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", epochs=4, eval_step=1, attack_batches=2))
    trainer, data = made(config)
    scores = iter([0.5, 0.9, 0.3, 0.2, 0.1])
    trainer._valid_epoch = lambda *_, **__: (score := next(scores), {trainer.valid_metric: score})
    states = []
    trainer.fit(
        data.train,
        data.valid,
        saved=False,
        callback_fn=lambda *_: states.append(trainer.model.predict_layer.weight.detach().clone()),
    )
    now = trainer.model.predict_layer.weight.detach()
    assert torch.equal(states[1], trainer.state.progress.original.get("predict_layer.weight", now))
    assert not torch.equal(states[1], states[3])


def test_rounds_repair_one_module_after_another_and_top_k_several_at_once(settings):
    trainer, _, _ = repaired(settings, "NeuMF", ft_rounds=5)
    modules = [row.module for row in trainer.state.progress.ranking if row.repaired]
    assert len(modules) == len(set(modules)) == trainer.state.progress.round == 3  # NeuMF has three; then it ends
    trainer, _, _ = repaired(settings, "NeuMF", ft_modules=2)
    first = trainer.state.progress.ranking
    assert [row.repaired for row in first] == [True, True, False]


@pytest.mark.parametrize("learner", ["sgd", "adam", "adamw", "adagrad", "rmsprop"])
def test_learners_and_the_step_at_half_time(settings, learner, monkeypatch):
    rates = []
    alone = tuning.alone

    def spy(trainer, parameters, optimizer, objective):
        rates.append((type(optimizer).__name__.lower(), optimizer.param_groups[0]["lr"]))
        return alone(trainer, parameters, optimizer, objective)

    monkeypatch.setattr(tuning, "alone", spy)
    repaired(settings, "NeuMF", ft_learner=learner, ft_epochs=5, ft_learning_rate=0.1)
    assert [name for name, _ in rates] == [learner] * 5
    assert [rate for _, rate in rates] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("robust", "patience", "epochs", "alphas"),
    [
        ([0.1, 0.1, 0.1, 0.1, 0.1], 2, 2, 1),  # none beats stage 1: nothing is interpolated
        ([0.1, 0.3, 0.1, 0.1, 0.9], 2, 4, 5),  # the second does, and two more bring nothing
        ([0.1, 0.1, 0.1, 0.1, 0.1], None, 5, 5),  # of all epochs the best is interpolated, as in the paper
        ([0.3, 0.4, 0.5, 0.6, 0.7], 1, 5, 5),
    ],
)
def test_a_round_ends_where_so_many_epochs_gain_nothing(robust, patience, epochs, alphas, settings, monkeypatch):
    scores = iter([0.2, *robust])  # stage 1's first
    monkeypatch.setattr(ValidScores, "robust", lambda self: next(scores, 0.0))
    trainer, _, _ = repaired(settings, "NeuMF", ft_patience=patience, ft_epochs=5, ft_alphas=4)
    assert [row.robust for row in trainer.state.progress.epochs] == robust[:epochs]
    assert len(trainer.state.progress.sweep) == alphas


def test_after_register_recboles_own_run_gets_the_repaired_model(settings):
    from recbole.quick_start import run_recbole

    recbole_rawp.register()
    try:
        for saved in (True, False):
            folder = f"saved-{saved}"
            result = run_recbole(config_dict=settings("NeuMF", checkpoint_dir=folder, attack_batches=2), saved=saved)
            assert result["best_valid_score"] == result["best_valid_result"]["mrr@10"] and result["test_result"]
            names = sorted(path.name for path in Path(folder).glob("*.pth"))
            assert len(names) == 2 * saved and (not saved or names[0].endswith("-stage1.pth"))
    finally:
        recbole_rawp.unregister()
    assert recbole.trainer.Trainer.__module__.startswith("recbole.")


class Fake:
    """Valid scores whose clean and robust scores are functions of the one weight."""

    def __init__(self, model, clean, robust, bigger=True, tolerance=0.985):
        self.model, self._clean, self._robust = model, clean, robust
        self.trainer = SimpleNamespace(valid_metric_bigger=bigger)
        self.settings = SimpleNamespace(clean_tolerance=tolerance, alphas=10)

    def clean(self):
        return self._clean(self.model.weight.item())

    def robust(self):
        return self._robust(self.model.weight.item())

    better, keeps = ValidScores.better, ValidScores.keeps


@pytest.mark.parametrize(
    ("clean", "robust", "bigger", "alpha"),
    [
        (lambda a: 1.0, lambda a: a, True, 1.0),
        (lambda a: 1.0, lambda a: 1 - (a - 0.3) ** 2, True, 0.3),
        (lambda a: 1.0 - 0.05 * a, lambda a: a, True, 0.3),  # 1 - 0.015 is reached at 0.3
        (lambda a: 1.0, lambda a: 0.0, True, 0.0),  # no gain: nothing is changed
        (lambda a: 1.0, lambda a: float("nan") if a > 0.5 else a, True, 0.5),
        (lambda a: 1.0, lambda a: -a, False, 1.0),  # less is better
        (lambda a: 1.0 + 0.05 * a, lambda a: -a, False, 0.3),  # 1 / 0.985 is reached at 0.304
    ],
)
def test_the_best_robust_score_whose_clean_score_stays_within_the_tolerance(clean, robust, bigger, alpha):
    model = nn.Linear(1, 1, bias=False)
    before, tuned = torch.zeros(1, 1), torch.ones(1, 1)
    progress = Progress(
        start_epoch=0, clean=clean(0.0), robust=robust(0.0), before={"weight": before}, best={"weight": tuned}
    )
    scores = Fake(model, lambda a: clean(round(a, 6)), lambda a: robust(round(a, 6)), bigger)
    interpolation.interpolate(model, ["weight"], scores, progress)
    assert [row.alpha for row in progress.sweep] == [step / 10 for step in range(11)]
    assert [row.alpha for row in progress.sweep if row.chosen] == [alpha]
    assert model.weight.item() == pytest.approx(alpha) and progress.changed() == (alpha > 0)
    if alpha in (0.0, 1.0):
        assert torch.equal(model.weight.detach(), tuned if alpha else before)


def test_the_robust_score_is_the_valid_metric_under_fgsm_on_all_hidden_weights(settings):
    config = RAWPConfig(
        config_dict=settings("NeuMF", defense="rawp_ft_reference", ft_radius=0.3, attack_batches=2, epochs=5)
    )
    trainer, data = made(config)
    trainer.fit(data.train, data.valid, saved=False)
    weights = perturbed_weights(trainer.model, "hidden")
    fgsm = Perturbation(("fgsm",), "hidden", (0.0, 0.3), losses=("training", "ranking"), iterations=1)
    attack, loaders = Attack((fgsm,), batches=2), Data(data.train, data.valid, data.valid)
    records = robustness.under_attack(trainer, loaders, attack, defense="x").records
    found = {(r.loss, r.level): r.value for r in records if r.metric == trainer.valid_metric}
    scores = ValidScores(trainer, data.train, data.valid, weights, trainer.fine_tuning)
    worst = min(found["training", 0.3], found["ranking", 0.3])
    assert scores.robust() == worst < scores.clean() == found["training", 0.0]


@pytest.mark.parametrize(
    ("defense", "size"),
    [
        ("rawp_reference", lambda w: 0.5 * w.norm()),  # each tensor, relative
        ("apr", lambda w: 0.5 * len(w) ** 0.5),  # each row, absolute
        ("rat", lambda w: 0.5 * w.norm()),  # each row of the hidden weights, relative
        ("sam", lambda w: 0.5),  # all together, absolute
    ],
)
def test_the_robust_score_is_measured_in_the_ball_that_stage_2_trains_in(defense, size, settings, monkeypatch):
    """Its deltas have the norm that those of the recipe have in closed form, and are the recipe's own ball."""
    own = {"defense": defense, "ft_rounds": 1, "ft_radius": 0.5, "attack_batches": 2, "ft_attack_steps": 1}
    trainer, data = made(RAWPConfig(config_dict=settings("NeuMF", **own)))
    weights = perturbed_weights(trainer.model, trainer.fine_tuning.target)
    seen, ranked_at = [], valid_scores.ranked_at

    def noted(trainer, loader, loss, delta):
        seen.append((delta, loss.gradient(None)))
        return ranked_at(trainer, loader, loss, delta)

    monkeypatch.setattr(valid_scores, "ranked_at", noted)
    trainer.eval_collector.data_collect(data.train)
    ValidScores(trainer, data.train, data.valid, weights, trainer.fine_tuning).robust()
    ((delta, gradient),) = seen
    moved = {name: w.detach()[gradient[name].flatten(1).any(1)] for name, w in weights.items()}  # rows of the batches
    if defense == "sam":
        assert torch.stack([d.norm() for d in delta.values()]).norm().item() == pytest.approx(0.5, rel=1e-5)
    else:
        for name, rows in moved.items():
            whole = weights[name].detach() if defense == "rawp_reference" else rows
            assert delta[name].norm().item() == pytest.approx(float(size(whole)), rel=1e-5)
    recipe = trainer.fine_tuning.recipe
    bound = ball.around(weights, 0.5, granularity=recipe.granularity, relative=recipe.relative)
    assert all((norm <= 1.00001 * bound.radius[name]).all() for name, norm in bound.norms(delta).items())


def test_alpha_0_leaves_everything_as_it_was_what_the_model_copies_from_itself_too(settings, monkeypatch):
    monkeypatch.setattr(ValidScores, "better", lambda self, score, than: than is None)  # no alpha beats 0
    trainer, before, after = repaired(settings, "RecVAE", ft_modules=99, ft_learning_rate=0.01)
    assert not trainer.state.progress.changed()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_repair_that_diverges_is_given_up_not_the_run(settings, caplog):
    trainer, before, after = repaired(settings, "NeuMF", ft_learning_rate=1e30, ft_epochs=3)
    assert any("Stage 2 diverged" in r.message for r in caplog.records)
    assert all(torch.equal(value, after[key]) or value.isfinite().all() for key, value in after.items())
    assert all(value.isfinite().all() for value in after.values()) and before.keys() == after.keys()
    assert [row.alpha for row in trainer.state.progress.sweep] == [0.0]  # nothing was tuned: nothing to interpolate
    assert math.isnan(trainer.state.progress.epochs[-1].loss)
    said = " Its training diverged in epoch 0: try a smaller ft_learning_rate, or ft_learner: adam."
    progress = trainer.state.progress
    assert summary(progress, "NDCG@10")[0].endswith(said) and said in outcome(progress, "NDCG@10")


@pytest.mark.parametrize(
    ("words", "weight", "loss", "diverged"),
    [
        ("Training loss is nan", 1.0, 1.0, True),
        ("Function 'PowBackward0' returned nan values in its 0th output.", 1.0, 1.0, True),
        ("all elements of input should be between 0 and 1", math.nan, 1.0, True),
        ("all elements of input should be between 0 and 1", 1.0, math.inf, True),
        ("all elements of input should be between 0 and 1", 1.0, 1.0, False),
        ("the dominant eigenvalue is negative", 1.0, 1.0, False),
        ("nan_to_num(): argument 'input' must be Tensor", 1.0, 1.0, False),
    ],
)
@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_only_numbers_beyond_measure_are_a_divergence(kind, words, weight, loss, diverged):
    class Trainer:
        arguments = FitArguments(None)
        model = nn.Linear(1, 1, bias=False)
        only_optimizer = only_loss = staticmethod(nullcontext)

        def _train_epoch(self, *_, **__):
            objective.losses = torch.tensor(loss)
            self.model.weight.data.fill_(weight)
            raise kind(words)

    parameters = {"weight": Trainer.model.weight}
    omega = {"weight": 1.0}
    objective = Objective(Trainer.model, parameters, Recipe(0.1), omega=omega, generator=torch.Generator())
    if diverged:
        assert math.isnan(tuning.one_epoch(Trainer(), 0, parameters, None, objective))
    else:
        with pytest.raises(kind, match=re.escape(words)):
            tuning.one_epoch(Trainer(), 0, parameters, None, objective)


def test_measuring_omega_leaves_the_knowledge_graph_loader_in_its_mode(settings):
    config = RAWPConfig(config_dict=settings("MKR", rawp_layer_weights="criticality", criticality_every=1))
    trainer, data = made(config)
    modes = []
    inner = trainer.hardening.build(trainer)
    call = inner.__class__.__call__

    class Spy(inner.__class__):
        def __call__(self, *args):
            modes.append(data.train.state)
            return call(self, *args)

    inner.__class__ = Spy
    trainer.fit(data.train, data.valid, saved=False)
    from recbole.utils import KGDataLoaderState

    assert set(modes) == {KGDataLoaderState.RS, KGDataLoaderState.KG}

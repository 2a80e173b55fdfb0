"""Do searches that adapt, that see no gradient, or that come from a twin find what they should?"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from recbole_rawp.core import ball
from recbole_rawp.core.losses.attack_loss import AttackLoss, Judged, Source
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.twins import differ, twins_of
from recbole_rawp.host.weights import perturbed_weights, weights_of
from recbole_rawp.threats.adversarial import apgd
from recbole_rawp.threats.adversarial.method import METHODS, Best, Found, Objective
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.threats.adversarial.random_search import rank_1
from recbole_rawp.threats.adversarial.search import Search, unsettled
from recbole_rawp.threats.threat import Context
from tests.test_evaluation import outcome, threat, trained, values

W = {"a": torch.tensor([[3.0, 4.0]], dtype=torch.float64)}
BOUND = ball.around(W, 0.2)  # of radius 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(loss):
    """Return a differentiable function of delta["a"], without users, as what methods climb."""

    def climb(delta):
        point = (torch.zeros_like(W["a"]) if delta is None else delta["a"]).clone().requires_grad_()
        value = loss(point)
        (slope,) = torch.autograd.grad(value, point)
        return value.detach(), {"a": slope}

    return Objective(W, lambda delta: loss(delta["a"]).detach(), climb)


def test_checkpoints_are_those_of_the_paper():
    assert sorted(apgd.checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_the_first_step_is_fgsm():
    slope = objective(lambda d: (d * torch.tensor([[2.0, -1.0]])).sum())
    one, fgsm = (METHODS[name].search(slope, BOUND, steps=1, generator=seeded()).delta for name in ("apgd", "fgsm"))
    torch.testing.assert_close(one["a"], fgsm["a"])


def ridge(point):
    """Steep across, slow along: its maximum on the unit disc is (0, 1), and steps of a fixed length jump over it."""
    return -100 * point[0, 0].square() + point[0, 1]


def test_steps_that_adapt_reach_the_maximum_where_fixed_ones_jump_over_it():
    adapted = METHODS["apgd"].search(objective(ridge), BOUND, steps=60, generator=seeded())
    fixed = METHODS["bim"].search(objective(ridge), BOUND, steps=60, generator=seeded())
    assert float(adapted.value) == pytest.approx(1.0, abs=0.02)
    assert float(adapted.value) >= float(fixed.value)


@pytest.mark.parametrize("name", ["bim", "pgd", "mim", "apgd", "random_search"])
def test_the_best_point_is_kept_not_the_last(name):
    peak = torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    seen = []

    def loss(point):
        seen.append(float(-(point - peak).square().sum()))
        return -(point - peak).square().sum()

    found = METHODS[name].search(objective(loss), BOUND, steps=7, generator=seeded())
    assert float(found.value) == max(seen) >= float(found.last)
    assert float(loss(found.delta["a"])) == float(found.value)


def test_nan_on_the_way_is_not_the_best():
    calls = iter([0.0, math.nan, 2.0, math.nan])
    found = METHODS["bim"].search(objective(lambda d: next(calls) + 0 * d.sum()), BOUND, steps=3, generator=seeded())
    assert float(found.value) == 2.0


def test_each_user_is_searched_as_if_alone():
    """Two users with losses of their own at once, and one after the other."""
    peaks = torch.tensor([[[0.9, 0.1]], [[-0.2, 0.3]]], dtype=torch.float64)
    radius = {"a": torch.tensor([[[1.0]], [[0.5]]], dtype=torch.float64)}

    def of(users):
        def climb(delta):
            point = torch.zeros_like(peaks[users]) if delta is None else delta["a"]
            gap = point - peaks[users]
            return -gap.square().sum((1, 2)), {"a": -2 * gap}

        bound = ball.Ball("row", {"a": radius["a"][users]}, users=True)
        task = Objective({"a": torch.zeros_like(peaks[users])}, lambda delta: climb(delta)[0], climb)
        return METHODS["apgd"].search(task, bound, steps=12, generator=seeded())

    together = of([0, 1])
    for user in (0, 1):
        alone = of([user])
        torch.testing.assert_close(together.delta["a"][user], alone.delta["a"][0])
        assert float(together.value[user]) == float(alone.value[0])


def test_the_best_of_each_user_is_kept():
    best = Best(torch.tensor([1.0, math.nan]), {"a": torch.zeros(2, 1, 1)})
    higher = best.offer(torch.tensor([0.5, 3.0]), {"a": torch.ones(2, 1, 1)})
    assert higher.tolist() == [False, True]
    assert best.value.tolist() == [1.0, 3.0] and best.delta["a"].flatten().tolist() == [0.0, 1.0]


def test_random_changes_have_rank_one():
    shapes = {"a": torch.zeros(4, 3, 2), "b": torch.zeros(5)}
    found = rank_1(shapes, seeded())
    assert torch.linalg.matrix_rank(found["a"].reshape(4, 6)) == 1 and found["b"].shape == (5,)
    users = rank_1({"a": torch.zeros(2, 4, 3)}, seeded(), users=True)["a"]
    assert [int(torch.linalg.matrix_rank(user)) for user in users] == [1, 1]
    assert not torch.equal(*users)


def test_a_search_without_gradients_asks_for_none_and_climbs():
    def forbidden(delta):
        raise AssertionError("asked for a gradient")

    task = Objective(W, lambda delta: -(delta["a"] - 0.5).square().sum(), forbidden)
    found = METHODS["random_search"].search(task, BOUND, steps=20, generator=seeded())
    assert float(found.value) > -0.01 > float(task.value(task.zero()))


class Peak(torch.nn.Module):
    """A loss -|w - peak|^2 of a single weight matrix."""

    def __init__(self, weight, peak):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.peak = torch.tensor(peak, dtype=torch.float64)

    def loss(self, scale):
        value = -scale * (self.weight - self.peak).square().sum()
        return Judged(value, float(value))


def search(model, method, *, restarts=1, lost=math.inf, twins=None, forms=None):
    source = Source("ranking", forms or (model.loss,), [1.0], lost)
    loss = AttackLoss(model, source, {"weight": model.weight})
    context = Context(model, None, {}, None, seed=1, twins=twins or {})
    bound = lambda loss, radius: loss.ball(radius, granularity="tensor")  # noqa: E731
    return Search(METHODS[method], loss, bound, restarts, 8, context)


def test_nothing_is_searched_once_nothing_is_left():
    model = Peak([[3.0, 4.0]], [[3.0, 4.5]])
    alone, several = search(model, "apgd", lost=-1e-9), search(model, "apgd", restarts=5, lost=-0.01)
    alone.worst(0.02)
    assert not alone.nothing_left
    several.worst(0.5)
    assert several.nothing_left


def test_the_second_start_is_what_the_smaller_ball_gave():
    starts = []
    model = Peak([[3.0, 4.0]], [[9.0, 9.0]])

    def noted(scale):
        starts.append(model._parameters["weight"].detach().clone() - torch.tensor([[3.0, 4.0]]))
        return model.loss(scale)

    found = search(model, "apgd", restarts=2, forms=(noted,))
    small = found.worst(0.1)
    starts.clear()
    found.worst(0.2)
    stretched = small.delta["weight"] / small.delta["weight"].norm() * 0.2 * 5
    assert any(torch.allclose(start, stretched) for start in starts)


def test_a_search_goes_on_from_what_another_loss_led_to_where_that_is_better():
    """Two peaks: the gradient at the weights leads to the lower one, and the other search began at the higher."""

    def loss(point):
        return torch.exp(-8 * (point - 0.3).square().sum()) + 3 * torch.exp(-8 * (point + 0.6).square().sum())

    model = Peak([[3.0, 4.0]], [[3.0, 4.0]])

    def form(scale):
        value = loss(model._parameters["weight"] - torch.tensor([[3.0, 4.0]], dtype=torch.float64))
        return Judged(value, float(value))

    alone, helped, spared = (search(model, "apgd", forms=(form,)) for _ in range(3))
    lower = alone.worst(0.2).value
    helped.others = [{0.2: {"weight": torch.full((1, 2), -0.5, dtype=torch.float64)}}]
    spared.others = [{}, {0.2: {"weight": torch.zeros(1, 2, dtype=torch.float64)}}]
    assert float(lower) < 1.05 and float(helped.worst(0.2).value) > 2.9
    assert spared.worst(0.2).value == lower


def test_what_a_smaller_ball_gave_is_kept_where_a_larger_one_gives_less():
    model = Peak([[3.0, 4.0]], [[9.0, 9.0]])
    found = search(model, "apgd")
    small = found.worst(0.1)
    found.best = small._replace(value=torch.tensor(7.0, dtype=torch.float64))
    assert found.worst(0.2).delta is small.delta
    once = search(model, "fgsm")
    once.best = found.best
    assert once.worst(0.2).delta is not small.delta  # one step is one step


def test_restarts_take_the_forms_of_the_loss_in_turn():
    taken = []
    model = Peak([[3.0, 4.0]], [[9.0, 9.0]])
    forms = tuple(lambda scale, number=number: taken.append(number) or model.loss(scale) for number in range(3))
    search(model, "apgd", restarts=4, forms=forms).worst(0.1)
    assert list(dict.fromkeys(taken)) == [0, 1, 2] and taken[-1] == 0


def test_what_breaks_a_twin_is_carried_over_and_nothing_is_left_in_the_model():
    """The model's own gradient is hidden; that of its twin points to the peak."""
    model = Peak([[3.0, 4.0]], [[4.0, 4.0]])

    def hidden(scale):
        shown = float(model._parameters["weight"][0, 0]) < 2.9  # at the twin
        value = model.loss(scale)
        return value if shown else Judged(0 * value.climbed, value.value)

    twin = {"weight": torch.tensor([[1.5, 4.0]], dtype=torch.float64)}
    before = model.weight.detach().clone()
    masked = search(model, "apgd", forms=(hidden,)).worst(0.1)
    carried = search(model, "transfer", forms=(hidden,), twins={"plain": twin}).worst(0.1)
    assert not masked.delta["weight"].any() and carried.value > masked.value
    assert float(carried.delta["weight"].norm()) == pytest.approx(0.5)  # a tenth of this model's norm
    assert torch.equal(model.weight, before)


def test_where_gradients_are_masked_the_others_go_on_from_what_breaks_the_twin():
    """As above, and past the step that hides it the model has its gradient again."""
    model = Peak([[3.0, 4.0]], [[4.0, 4.0]])

    def hidden(scale):
        masked = abs(float(model._parameters["weight"][0, 0]) - 3.0) < 0.1
        value = model.loss(scale)
        return Judged(0 * value.climbed, value.value) if masked else value

    twins = {"plain": {"weight": torch.tensor([[1.5, 4.3]], dtype=torch.float64)}}

    def reached(*variants):
        source = Source("training", (hidden,), [1.0])
        around = partial(AttackLoss, model)
        context = Context(model, lambda _: {"weight": model.weight}, {"training": lambda: source}, around, 1, twins)
        threat = Perturbation(variants, "hidden", (0.0, 0.1), losses=("training",), iterations=10)
        return {change.variant: change.losses["training"] for change in threat.changes(context) if change.level}

    alone, both = reached("apgd"), reached("apgd", "transfer")
    assert alone["apgd"] < both["transfer"] < both["apgd"]


def test_a_search_that_ends_far_below_its_best_is_told():
    found = [Found({}, torch.tensor(2.0), torch.tensor(last)) for last in (2.0, 1.6, 1.4, math.nan)]
    assert [unsettled(one, 1.0) for one in found] == [False, False, True, True]


@pytest.mark.parametrize("name", ["NeuMF", "MultiVAE"])
def test_each_loss_is_climbed_and_measured(name, settings):
    trainer, data = trained(RAWPConfig(config_dict=settings(name, defense="none", epochs=10)))
    found = outcome(
        trainer, data, threat(variants=("noise", "apgd"), losses=("training", "ranking"), levels=(0.0, 0.5))
    )
    rows = {(r.threat, r.loss, r.level): r.value for r in found.records if r.metric == "ndcg@10"}
    assert {key[:2] for key in rows} == {("noise", ""), ("apgd", "training"), ("apgd", "ranking")}
    raised = {(r.threat, r.loss, r.split, r.level): r.value for r in found.records if r.metric == "loss"}
    assert {key[2] for key in raised if key[1] == "ranking"} == {"valid"}
    for loss, split in (("training", "train"), ("ranking", "valid")):
        noise, attack = (raised[variant, loss, split, 0.5] for variant in ("noise", "apgd"))
        assert attack > noise and raised["apgd", loss, split, 0.0] == raised["noise", loss, split, 0.0]
    assert rows["apgd", "ranking", 0.5] < rows["noise", "", 0.0]


def test_a_model_that_cannot_be_ranked_is_attacked_by_its_training_loss_with_a_note(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    monkeypatch.setattr(type(trainer.model), "predict", lambda *_: torch.zeros(3, requires_grad=True))
    perturbation = Perturbation(("apgd",), "hidden", (0.0, 0.1), losses=("training", "ranking"), iterations=1)
    source = Source("training", (trainer.model.calculate_loss,), [next(iter(data.train))])

    def none():
        from recbole_rawp.errors import InputError

        raise InputError("attack_loss: ranking has nothing to rank. Set attack_loss=training.")

    weights = perturbed_weights(trainer.model, "hidden")
    context = Context(
        trainer.model,
        lambda _: weights,
        {"training": lambda: source, "ranking": none},
        partial(AttackLoss, trainer.model),
        seed=1,
    )
    assert {change.climbs for change in perturbation.changes(context)} == {"training"}
    assert any("The ranking loss was not attacked" in note for note in context.notes)


def test_the_loss_of_a_noise_start_is_that_of_the_records(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    records = outcome(trainer, data, threat(variants=("apgd",), levels=(0.0, 0.1, 0.5))).records
    losses = values(records, "apgd", "loss")
    assert losses[0.0] < losses[0.1] < losses[0.5]


def test_twins_are_found_beside_a_checkpoint_where_their_shapes_fit(settings, tmp_path):
    trainer, _ = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    run = tmp_path / "run"
    (run / "baseline").mkdir(parents=True)
    torch.save(
        {"state_dict": trainer.model.state_dict(), "config": trainer.config, "epoch": 0}, run / "baseline" / "model.pth"
    )
    other = {name: value[:1] for name, value in trainer.model.state_dict().items()}
    torch.save({"state_dict": other, "config": trainer.config, "epoch": 0}, run / "model-plain.pth")
    (run / "original.pth").write_bytes(b"no checkpoint")
    found = twins_of(run, trainer.model, trainer.config)
    assert list(found) == ["plain (baseline/model.pth)"]
    assert not differ(trainer.model, found["plain (baseline/model.pth)"])
    moved = {name: weight + 1 for name, weight in weights_of(trainer.model).items()}
    assert differ(trainer.model, moved)

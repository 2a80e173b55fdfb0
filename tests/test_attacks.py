"""Does each attack do what its paper says, within its budget?"""

from __future__ import annotations

import math

import pytest
import torch

from recbole_rawp.core import ball
from recbole_rawp.core.losses.attack_loss import Source
from recbole_rawp.threats.adversarial.method import METHODS, Method
from recbole_rawp.threats.adversarial.per_user.batch import Attacks, worst_logits
from recbole_rawp.threats.adversarial.search import Search
from recbole_rawp.threats.threat import Context
from tests.oracle import searched

W = {"a": torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64), "b": torch.tensor([[1.0], [3.0]], dtype=torch.float64)}
CURVATURE = {"a": torch.tensor([[5.0, 1.0, 0.1]], dtype=torch.float64), "b": torch.tensor([[1.0], [2.0]]).double()}
SLOPE = {"a": torch.tensor([[0.01, 0.5, 0.2]], dtype=torch.float64), "b": torch.tensor([[0.3], [-0.1]]).double()}


def gradient(delta):
    """L(w + d) = sum of d * curvature * d / 2 + slope * d."""
    return {n: SLOPE[n] + (0 if delta is None else CURVATURE[n] * delta[n]) for n in W}


def loss(delta):
    return float(sum((CURVATURE[n] * d * d / 2 + SLOPE[n] * d).sum() for n, d in delta.items()))


def found(name, granularity="tensor", steps=10, seed=0):
    bound = ball.around(W, 0.3, granularity=granularity)
    how = {"steps": steps, "generator": torch.Generator().manual_seed(seed)}
    return searched(METHODS[name], gradient, W, bound, value=loss, **how), bound


def clip(delta, radius):
    return delta * min(1.0, radius / float(delta.norm()))


@pytest.mark.parametrize("granularity", ball.GRANULARITIES)
@pytest.mark.parametrize("name", METHODS)
def test_the_budget_is_kept_and_noise_and_fgsm_use_it_up(name, granularity):
    delta, bound = found(name, granularity)
    inner = delta if bound.scale is None else {n: d / bound.scale[n] for n, d in delta.items()}
    for n, norm in bound.norms(inner).items():
        assert (norm <= bound.radius[n] * (1 + 1e-12)).all()
        if name in ("noise", "fgsm"):
            torch.testing.assert_close(norm, bound.radius[n].expand(norm.shape), rtol=1e-12, atol=0)


def test_fgsm_is_the_normalised_gradient():
    delta, _ = found("fgsm")
    for n, d in delta.items():
        torch.testing.assert_close(d, 0.3 * W[n].norm() * SLOPE[n] / SLOPE[n].norm(), rtol=1e-12, atol=0)


def test_fgsm_is_bim_with_one_step():
    one, _ = found("bim", steps=1)
    for n, d in found("fgsm")[0].items():
        torch.testing.assert_close(d, one[n], rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [2, 7])
def test_bim_is_projected_ascent_written_out(steps):
    expected = {n: torch.zeros_like(w) for n, w in W.items()}
    for _ in range(steps):
        g = gradient(expected)
        for n, w in W.items():
            radius = 0.3 * float(w.norm())
            expected[n] = clip(expected[n] + 2.5 / steps * radius * g[n] / g[n].norm(), radius)
    delta, _ = found("bim", steps=steps)
    for n in W:
        torch.testing.assert_close(delta[n], expected[n], rtol=1e-12, atol=0)


def test_mim_follows_the_momentum_of_gradients_with_l1_norm_one():
    expected, momentum = {n: torch.zeros_like(w) for n, w in W.items()}, dict.fromkeys(W, 0.0)
    for _ in range(5):
        g = gradient(expected)
        for n, w in W.items():
            radius = 0.3 * float(w.norm())
            momentum[n] = momentum[n] + g[n] / g[n].abs().sum()
            expected[n] = clip(expected[n] + 0.5 * radius * momentum[n] / momentum[n].norm(), radius)
    delta, _ = found("mim", steps=5)
    for n in W:
        torch.testing.assert_close(delta[n], expected[n], rtol=1e-12, atol=0)


def test_momentum_of_one_user_does_not_depend_on_the_others():
    alone = {n: g.unsqueeze(0) for n, g in SLOPE.items()}
    both = {n: torch.stack([g, 1000 * g.flip(1)]) for n, g in SLOPE.items()}
    radius = ball.around(W, 0.3, granularity="row").radius
    deltas = []
    for slope in (alone, both):
        bound = ball.Ball("row", radius, users=True)

        def uphill(delta, slope=slope):
            return {n: s + (0 if delta is None else delta[n] * CURVATURE[n]) for n, s in slope.items()}

        deltas.append(searched(METHODS["mim"], uphill, slope, bound, steps=4, generator=torch.Generator()))
    torch.testing.assert_close(deltas[0]["a"][0], deltas[1]["a"][0])


def test_pgd_starts_at_random_and_comes_near_the_worst_point_of_a_quadratic():
    starts = [found("pgd", steps=3, seed=seed)[0]["a"] for seed in (0, 1)]
    assert not torch.equal(*starts)
    assert torch.equal(starts[0], found("pgd", steps=3, seed=0)[0]["a"])
    radius = 0.3 * math.sqrt(5)
    # On the sphere (mu - curvature) d = slope at the maximum, with mu above the largest curvature: by bisection.
    low, high = 5.0, 100.0
    for _ in range(200):
        mu = (low + high) / 2
        d = SLOPE["a"] / (mu - CURVATURE["a"])
        low, high = (mu, high) if float(d.norm()) > radius else (low, mu)
    best = max(loss({"a": found("pgd", steps=60, seed=seed)[0]["a"]}) for seed in range(4))
    assert loss({"a": d}) * (1 + 1e-9) >= best > 0.97 * loss({"a": d}) > loss({"a": found("fgsm")[0]["a"]})


def test_noise_asks_for_no_gradient_and_comes_from_the_generator():
    bound = ball.around(W, 0.3)
    one, two = (
        searched(METHODS["noise"], lambda _: pytest.fail("asked"), W, bound, steps=9, generator=torch.Generator())
        for _ in range(2)
    )
    assert torch.equal(one["a"], two["a"])


def test_more_steps_find_more_where_the_loss_curves():
    losses = {name: loss(found(name)[0]) for name in METHODS}
    assert losses["bim"] > losses["fgsm"] > losses["noise"]
    assert losses["mim"] > losses["fgsm"] and losses["pgd"] > losses["fgsm"]


def test_an_attack_that_oversteps_is_projected_by_the_caller():
    class Greedy(Method):
        """Ten times the budget."""

        title = "greedy"

        def move(self, delta, direction, ball, steps):
            return {n: 10 * d for n, d in super().move(delta, direction, ball, steps).items()}

    bound = ball.around(W, 0.3)
    delta = searched(Greedy(), gradient, W, bound, steps=1, generator=torch.Generator())
    assert float(delta["a"].norm()) == pytest.approx(0.3 * math.sqrt(5))


def test_without_gradient_nothing_moves():
    bound = ball.around(W, 0.3)
    for name in ("fgsm", "bim", "mim"):
        nothing = searched(
            METHODS[name],
            lambda _: {n: 0 * s for n, s in SLOPE.items()},
            W,
            bound,
            steps=3,
            generator=torch.Generator(),
        )
        assert not any(d.any() for d in nothing.values())


class Scripted:
    """A loss whose values at the points that random starts find are given in turn."""

    source = Source("training", (None,), [])

    def __init__(self, *values):
        self.values, self.found, self.form = list(values), [], 0
        self.shapes = W

    def climb(self, delta):
        return -math.inf, SLOPE

    def value(self, delta):
        self.found.append(delta)
        return self.values[len(self.found) - 1]


@pytest.mark.parametrize(
    ("values", "best"), [((math.nan, 1.0, 2.0), 2), ((1.0, math.nan, 0.5), 0), ((math.nan, math.nan, -5.0), 2)]
)
def test_a_start_that_ends_in_nan_does_not_win(values, best):
    loss = Scripted(*values)
    context = Context(None, None, {}, None, seed=7)
    search = Search(METHODS["pgd"], loss, lambda loss, radius: ball.around(W, radius), 3, 1, context)
    assert search.worst(0.3).delta is loss.found[best]


def test_for_each_user_a_start_that_ends_in_nan_does_not_win():
    class Engine:
        """Three starts of two users: the losses are the first candidate's logits."""

        def __init__(self):
            self.weights = {"a": torch.zeros(2, 1, 3)}
            self.given = [[math.nan, 5.0], [1.0, math.nan], [0.5, 4.0]]
            self.start = -1

        def ball(self, radius, **_):
            return ball.Ball("row", {"a": torch.tensor(radius)}, users=True)

        def gradient(self, delta):
            self.start += 1
            return {"a": torch.ones(2, 1, 3)}

        def logits(self, delta):
            return torch.tensor(self.given[self.start]).unsqueeze(1)

        def loss(self, logits):
            return logits[:, 0]

    attacks = Attacks([("pgd", 0.3)], "row", relative=True, steps=1, restarts=3)
    found = worst_logits(METHODS["pgd"], Engine(), 0.3, attacks, torch.Generator().manual_seed(1))
    assert found.flatten().tolist() == [1.0, 5.0]

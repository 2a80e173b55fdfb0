"""Is delta as small as asked, and no smaller?"""

from __future__ import annotations

import math

import pytest
import torch

from recbole_rawp.core import ball

WEIGHTS = {
    "a": torch.tensor([[3.0, 4.0], [0.0, 12.0]], dtype=torch.float64),
    "b": torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64),
}


def gaussian(seed=0):
    return ball.random_direction(WEIGHTS, torch.Generator().manual_seed(seed))


def inner_norms(delta, bound):
    scaled = delta if bound.scale is None else {n: d / bound.scale[n] for n, d in delta.items()}
    return ball.group_norms(scaled, bound.granularity)


def test_tensor_radius_is_a_fraction_of_each_frobenius_norm():
    delta = ball.normalize(gaussian(), ball.around(WEIGHTS, 0.1))
    assert float(delta["a"].norm()) == pytest.approx(0.1 * 13.0)
    assert float(delta["b"].norm()) == pytest.approx(0.1 * 3.0)


def test_row_radius_is_a_fraction_of_each_row_norm():
    delta = ball.normalize(gaussian(), ball.around(WEIGHTS, 0.1, granularity="row"))
    torch.testing.assert_close(delta["a"].norm(dim=1), torch.tensor([0.5, 1.2], dtype=torch.float64))


def test_global_radius_bounds_one_norm_over_all_tensors():
    delta = ball.normalize(gaussian(), ball.around(WEIGHTS, 0.1, granularity="global"))
    both = math.hypot(float(delta["a"].norm()), float(delta["b"].norm()))
    assert both == pytest.approx(0.1 * math.hypot(13.0, 3.0))


def test_element_ball_is_asams():
    g, rho = gaussian(), 0.1 * math.sqrt(7)
    scale = {name: weight.abs() + 0.01 for name, weight in WEIGHTS.items()}
    norm = math.sqrt(sum(float(((scale[n] * g[n]) ** 2).sum()) for n in g))
    delta = ball.normalize(g, ball.around(WEIGHTS, 0.1, granularity="element"))
    for name in g:
        torch.testing.assert_close(delta[name], rho * scale[name] ** 2 * g[name] / norm)


@pytest.mark.parametrize("granularity", ["global", "element"])
def test_an_absolute_shared_radius_is_taken_as_it_is(granularity):
    bound = ball.around(WEIGHTS, 0.25, granularity=granularity, relative=False)
    assert float(inner_norms(ball.normalize(gaussian(), bound), bound)["a"]) == pytest.approx(0.25)


def test_omega_scales_tensors_and_absolute_ignores_their_norm():
    bound = ball.around(WEIGHTS, 0.5, relative=False, omega={"a": 2.0, "b": 0.0})
    delta = ball.normalize(gaussian(), bound)
    assert float(delta["a"].norm()) == pytest.approx(1.0)
    assert not delta["b"].any()


@pytest.mark.parametrize("granularity", ball.GRANULARITIES)
def test_projection_stays_inside_and_leaves_inner_points_alone(granularity):
    bound = ball.around(WEIGHTS, 0.1, granularity=granularity)
    surface = ball.normalize(gaussian(), bound)
    inside = {name: 0.5 * d for name, d in surface.items()}
    for name, d in ball.project(inside, bound).items():
        assert torch.equal(d, inside[name])
    outside = {name: 7.0 * d for name, d in surface.items()}
    for name, d in ball.project(outside, bound).items():
        torch.testing.assert_close(d, surface[name])


@pytest.mark.parametrize("granularity", ball.GRANULARITIES)
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_no_direction_gives_no_delta_rather_than_nan(granularity, value):
    direction = {name: torch.full_like(weight, value) for name, weight in WEIGHTS.items()}
    for d in ball.normalize(direction, ball.around(WEIGHTS, 0.1, granularity=granularity)).values():
        assert not d.any()


def test_a_vanishing_direction_gives_no_infinite_delta():
    weight = {"w": torch.ones(2, 1)}
    for granularity in ("row", "tensor"):
        delta = ball.normalize({"w": torch.full((2, 1), 1e-42)}, ball.around(weight, 0.1, granularity=granularity))
        assert delta["w"].isfinite().all() and delta["w"].norm() <= 0.1 * 2**0.5 + 1e-6


def test_complex_weights_are_bounded_too():
    weight = {"filter": torch.complex(torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 0.0]]))}
    delta = ball.normalize(ball.random_direction(weight, torch.Generator().manual_seed(0)), ball.around(weight, 0.1))
    assert float(torch.linalg.vector_norm(delta["filter"])) == pytest.approx(0.5)


def test_noise_comes_from_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(gaussian(3)["a"], gaussian(3)["a"]) and not torch.equal(gaussian(3)["a"], gaussian(4)["a"])
    assert torch.equal(before, torch.get_rng_state())


def test_sign_bounds_each_entry_by_the_root_mean_square():
    bound = ball.around(WEIGHTS, 0.1, granularity="sign")
    g = gaussian()
    torch.testing.assert_close(ball.normalize(g, bound)["b"], 0.1 * math.sqrt(3) * g["b"].sign())
    torch.testing.assert_close(ball.project({"b": torch.tensor([[9.0, -9.0, 0.01]])}, bound)["b"][0, 2].item(), 0.01)
    absolute = ball.around(WEIGHTS, 0.1, granularity="sign", relative=False)
    assert float(ball.normalize(g, absolute)["a"].abs().max()) == pytest.approx(0.1)


def test_each_user_has_a_ball_of_their_own():
    rows = ball.around(WEIGHTS, 0.1, granularity="row").radius
    many = {name: torch.stack([weight, 100 * weight]) for name, weight in gaussian().items()}
    bound = ball.Ball("row", rows, users=True)
    delta = ball.normalize(many, bound)["a"]
    torch.testing.assert_close(delta[0], delta[1])
    torch.testing.assert_close(delta.norm(dim=2)[0], torch.tensor([0.5, 1.2], dtype=torch.float64))
    torch.testing.assert_close(ball.project({"a": 3 * delta}, bound)["a"], delta)

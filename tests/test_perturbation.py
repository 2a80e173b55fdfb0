"""Does the ascent find the worst delta where it is known?"""

from __future__ import annotations

import math

import pytest
import torch

from recbole_rawp.core import ball
from recbole_rawp.core.ascent import AdamMoments, ascend

W = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
G = torch.tensor([[1.0, -2.0], [0.5, 0.0]], dtype=torch.float64)


def worst_of_linear(granularity, radius):
    """L(w) = <G, w> is largest at radius * T^2 G / ||T G|| in each group: written out group by group."""
    if granularity == "row":
        return torch.stack([radius * w.norm() * g / g.norm() for w, g in zip(W, G)])
    if granularity == "element":
        scale = W.abs() + 0.01
        return radius * 2.0 * scale**2 * G / (scale * G).norm()  # sqrt(4 elements) = 2
    if granularity == "sign":
        return radius * W.norm() / 2 * G.sign()  # rms of 4 entries
    return radius * W.norm() * G / G.norm()


@pytest.mark.parametrize("granularity", ball.GRANULARITIES)
@pytest.mark.parametrize("steps", [1, 10])
def test_linear_loss(granularity, steps):
    bound = ball.around({"w": W}, 0.1, granularity=granularity)
    delta = ascend(lambda _: {"w": G}, {"w": W}, bound, steps=steps, generator=torch.Generator())
    torch.testing.assert_close(delta["w"], worst_of_linear(granularity, 0.1))


@pytest.mark.parametrize("granularity", ["tensor", "global"])
def test_quadratic_loss_has_its_worst_delta_along_the_steepest_curvature(granularity):
    """L(w + d) = d^T H d / 2 + b^T d with b near the top eigenvector: one step falls short, many do not."""
    w = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    curvature = torch.tensor([5.0, 1.0, 0.1], dtype=torch.float64)
    slope = torch.tensor([[0.01, 0.002, 0.0]], dtype=torch.float64)
    bound = ball.around({"w": w}, 0.5, granularity=granularity)

    def gradient(delta):
        return {"w": slope + (0 if delta is None else delta["w"] * curvature)}

    def loss(delta):
        return float((delta * curvature * delta).sum() / 2 + (slope * delta).sum())

    one, many = (ascend(gradient, {"w": w}, bound, steps=steps, generator=torch.Generator())["w"] for steps in (1, 60))
    radius = 0.5 * math.sqrt(5)
    assert float(many.norm()) == pytest.approx(radius)
    # On the sphere (mu I - H) d = b at the maximum, with mu above the largest curvature: found by bisection.
    low, high = 5.0 + 1e-12, 50.0
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if (slope / (mu - curvature)).norm() > radius else (low, mu)
    worst = loss(slope / (mu - curvature))
    assert 0.9999 * worst < loss(many) <= worst * (1 + 1e-9)
    assert loss(one) < loss(many)


def test_one_step_is_projected_ascent_with_one_step():
    bound = ball.around({"w": W}, 0.1)
    one = ascend(lambda _: {"w": G}, {"w": W}, bound, steps=1, generator=torch.Generator())["w"]
    assert torch.equal(one, ball.normalize({"w": G}, bound)["w"])


@pytest.mark.parametrize("granularity", ball.GRANULARITIES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_every_gradient_is_asked_for_inside_the_ball(steps, granularity):
    bound = ball.around({"w": W}, 0.1, granularity=granularity)
    asked, turns = [], torch.Generator().manual_seed(0)

    def gradient(delta):
        asked.append(delta)
        return {"w": torch.randn(W.shape, dtype=W.dtype, generator=turns)}

    last = ascend(gradient, {"w": W}, bound, steps=steps, generator=torch.Generator())
    assert asked[0] is None and len(asked) == steps
    for delta in [*asked[1:], last]:
        inner = delta if bound.scale is None else {"w": delta["w"] / bound.scale["w"]}
        assert (bound.norms(inner)["w"] <= bound.radius["w"] * (1 + 1e-12)).all()


def test_noise_needs_no_gradient_and_has_the_same_norm():
    def forbidden(_):
        raise AssertionError("noise asked for a gradient")

    bound = ball.around({"w": W}, 0.1)
    delta = ascend(forbidden, {"w": W}, bound, direction="noise", generator=torch.Generator().manual_seed(0))["w"]
    assert float(delta.norm()) == pytest.approx(0.1 * 5.0)
    assert abs(float((delta * G).sum())) < float(delta.norm() * G.norm())


def test_adam_rescales_as_torchs_optimizer_does():
    parameter = torch.nn.Parameter(torch.zeros_like(W))
    optimizer = torch.optim.Adam([parameter], lr=1.0, maximize=True)
    moments = AdamMoments()
    for step in range(3):
        g = G * (step + 1) + step
        before = parameter.detach().clone()
        parameter.grad = g.clone()
        optimizer.step()
        torch.testing.assert_close(moments.rescale({"w": g})["w"], parameter.detach() - before)

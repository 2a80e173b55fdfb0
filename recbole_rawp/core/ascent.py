"""Finds the worst small change of the weights by projected gradient ascent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional

import torch

from recbole_rawp.core.ball import Ball, Weights, normalize, project, random_direction

DIRECTIONS = ("gradient", "adam", "noise")
STEP_SIZE = 2.5  # of radius / steps, after Madry et al., ICLR 2018

Gradient = Callable[[Optional[Weights]], Weights]


def ascend(
    gradient: Gradient,
    weights: Weights,
    ball: Ball,
    *,
    direction: str = "gradient",
    steps: int = 1,
    generator: torch.Generator,
    adam: AdamMoments | None = None,
) -> Weights:
    """Return delta, name -> constant tensor, that raises the loss most within `ball`.

    One step is the fast gradient method, delta = normalize(g); n steps are projected gradient ascent,
    delta <- project(delta + normalize(g(w + delta)) * 2.5 / n). `noise` takes Gaussian noise of the same norm.

    Args:
        gradient: delta (None: at the weights themselves) -> gradient of the loss there, name by name.
        weights: the tensors to perturb, for their shapes.
        ball: the bound.
        direction: one of `DIRECTIONS`; `adam` rescales each gradient by `adam`'s moments first.
        steps: number of gradients, at least 1. Noise needs none.
        generator: source of the noise.
        adam: moments kept between calls; required for, and changed by, the direction `adam`.
    """
    if direction == "noise":
        return normalize(random_direction(weights, generator), ball)
    stride = ball if steps == 1 else ball.shrunk(STEP_SIZE / steps)
    delta: Weights | None = None
    for _ in range(steps):
        uphill = gradient(delta)
        if direction == "adam":
            assert adam is not None, "the direction 'adam' needs its moments"
            uphill = adam.rescale(uphill)
        step = normalize(uphill, stride)
        moved = step if delta is None else {name: delta[name] + step[name] for name in step}
        delta = moved if steps == 1 else project(moved, ball)
    assert delta is not None, "steps must be at least 1"
    return delta


@dataclass
class AdamMoments:
    """The direction of one Adam step uphill (Kingma and Ba, ICLR 2015), as in the RAWP authors' release."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    first: Weights = field(default_factory=dict)
    second: Weights = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @torch.no_grad()
    def rescale(self, gradient: Weights) -> Weights:
        """Update the moments of the tensors in `gradient` and return m_hat / (sqrt(v_hat) + epsilon)."""
        direction = {}
        for name, g in gradient.items():
            m = self.first.setdefault(name, torch.zeros_like(g))
            v = self.second.setdefault(name, torch.zeros_like(g))
            t = self.steps[name] = self.steps.get(name, 0) + 1
            m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g.conj(), value=1 - self.beta2)
            direction[name] = (m / (1 - self.beta1**t)) / ((v / (1 - self.beta2**t)).sqrt() + self.epsilon)
        return direction

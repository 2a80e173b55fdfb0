"""Finds the worst small change of the weights by projected gradient ascent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Optional

import torch

from recbole_rawp.core.ball import Ball, Weights, normalize, project, random_direction

DIRECTIONS = ("gradient", "adam", "noise")
STARTS = ("weights", "last", "free")
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
    start: Weights | None = None,
) -> Weights:
    """Return delta, name -> constant tensor, that raises the loss most within `ball`.

    One step is the fast gradient method, delta = normalize(g); n steps are projected gradient ascent,
    delta <- project(delta + normalize(g(w + delta)) * 2.5 / n). `noise` takes Gaussian noise of the same norm.
    With a start, it is where the first gradient is taken.

    Args:
        gradient: delta (None: at the weights themselves) -> gradient of the loss there, name by name.
        weights: the tensors to perturb, for their shapes.
        ball: the bound.
        direction: one of `DIRECTIONS`; `adam` rescales each gradient by `adam`'s moments first.
        steps: number of gradients, at least 1. Noise needs none.
        generator: source of the noise.
        adam: moments kept between calls; required for, and changed by, the direction `adam`.
        start: the first delta, projected; None: 0, the weights themselves.
    """
    if direction == "noise":
        return normalize(random_direction(weights, generator), ball)
    stride = ball if steps == 1 else ball.shrunk(STEP_SIZE / steps)
    delta = None if start is None else project(start, ball)
    for _ in range(steps):
        uphill = gradient(delta)
        if direction == "adam":
            assert adam is not None, "the direction 'adam' needs its moments"
            uphill = adam.rescale(uphill)
        step = normalize(uphill, stride)
        moved = step if delta is None else {name: delta[name] + step[name] for name in step}
        delta = moved if steps == 1 and start is None else project(moved, ball)
    assert delta is not None, "steps must be at least 1"
    return delta


def follow(memory: Memory, weights: Weights, ball: Ball) -> Weights:
    """Return the last delta, moved along the gradient that the training's own backward pass gave it: no pass more.

    delta <- project(delta + normalize(dL/ddelta)): "free" adversarial training (Shafahi et al., NeurIPS 2019).
    """
    step = normalize(memory.of(memory.uphill, weights), ball)
    return project({name: last + step[name] for name, last in memory.of(memory.delta, weights).items()}, ball)


@dataclass
class Memory:
    """What the ascent keeps from batch to batch.

    Attributes:
        adam: moments of the direction `adam`.
        delta: the last perturbation of each tensor.
        uphill: the gradient of the loss by it, where that was watched.
    """

    adam: AdamMoments = field(default_factory=lambda: AdamMoments())
    delta: Weights = field(default_factory=dict)
    uphill: Weights = field(default_factory=dict)

    def keep(self, delta: Weights, *, watched: bool) -> None:
        """Note a perturbation, and the gradient by it when the loss there goes backward."""
        self.delta.update({name: moved.detach() for name, moved in delta.items()})
        self.uphill.clear()
        if watched:
            for name, moved in delta.items():
                moved.requires_grad_().register_hook(partial(self.uphill.__setitem__, name))

    def start(self, weights: Weights) -> Weights | None:
        """Return where an ascent of these weights goes on from; None if there was none."""
        return self.of(self.delta, weights) if any(name in self.delta for name in weights) else None

    def of(self, kept: Weights, weights: Weights) -> Weights:
        """Return what is kept of these weights, 0 where nothing is."""
        return {name: kept.get(name, torch.zeros_like(weight)) for name, weight in weights.items()}


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

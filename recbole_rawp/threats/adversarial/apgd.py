"""Auto-PGD: steps that halve where nothing is gained (Croce and Hein, ICML 2020, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_rawp.core.ball import Ball, Weights, normalize, project, random_direction
from recbole_rawp.threats.adversarial.method import Best, Found, Method, Objective, register, where

MOMENTUM = 0.75  # share of the new step; the rest goes on along the last one
ENOUGH = 0.75  # share of the steps since the last checkpoint that must have raised the loss


@register("apgd")
class APGD(Method):
    """Steps of 2 * radius along the normalised gradient, with momentum, which halve at checkpoints.

        z       = project(delta_k + normalize(g(delta_k)) * 2 / 2^halvings)
        delta'  = project(delta_k + 0.75 (z - delta_k) + 0.25 (delta_k - delta_(k-1)))

    At a checkpoint the step halves, and the search goes on from the best delta, if fewer than three quarters of the
    steps since the last one raised the loss, or if neither step nor best loss changed since. The first start is the
    weights themselves, so that the first step is FGSM; further ones are `warm`, or random points of the ball.
    """

    title = "steps that adapt (APGD)"
    iterates = True
    restarts = True
    warm = True

    def start(self, shapes: Weights, ball: Ball, generator: torch.Generator) -> Weights | None:
        """Return a point in a random direction, at a share ~ U(0, 1) of the radius."""
        share = float(torch.rand((), generator=generator))
        return normalize(random_direction(shapes, generator), ball.shrunk(share))

    def search(
        self,
        objective: Objective,
        ball: Ball,
        *,
        steps: int,
        generator: torch.Generator,
        warm: Weights | None = None,
        anew: bool = False,
    ) -> Found:
        """Return the best delta of the search."""
        begin = self.start(objective.shapes, ball, generator) if anew and warm is None else warm
        value, gradient = objective.climb(begin)
        delta = objective.zero() if begin is None else begin
        best, slope, before = Best(value, delta), gradient, delta
        size, halved = torch.full_like(value, 2.0), torch.zeros_like(value, dtype=torch.bool)
        rises, at_checkpoint, since = torch.zeros_like(value), value, 0
        due = checkpoints(steps)
        for step in range(1, steps + 1):
            target = stepped(delta, gradient, ball, size)
            new = target if step == 1 else project(along(delta, target, before), ball)
            before, delta, earlier = delta, new, value
            value, gradient = objective.climb(delta)
            rises = rises + (value > earlier)
            slope = where(best.offer(value, delta), gradient, slope)
            if step in due:
                stuck = (rises < ENOUGH * (step - since)) | (~halved & (best.value <= at_checkpoint))
                size, halved, at_checkpoint = torch.where(stuck, size / 2, size), stuck, best.value
                delta, before = where(stuck, best.delta, delta), where(stuck, best.delta, before)
                gradient, value = where(stuck, slope, gradient), torch.where(stuck, best.value, value)
                rises, since = torch.zeros_like(rises), step
        return Found(best.delta, best.value, value)


def stepped(delta: Weights, gradient: Weights, ball: Ball, size: Tensor) -> Weights:
    """Return the point of the ball after a step of `size` radii, a number or [U], along the normalised gradient."""
    step = normalize(gradient, ball)
    wide = {name: size.reshape(-1, *[1] * (change.dim() - 1)) if size.dim() else size for name, change in step.items()}
    return project({name: delta[name] + wide[name] * change for name, change in step.items()}, ball)


def along(delta: Weights, target: Weights, before: Weights) -> Weights:
    """Return delta + 0.75 (target - delta) + 0.25 (delta - before)."""
    return {n: d + MOMENTUM * (target[n] - d) + (1 - MOMENTUM) * (d - before[n]) for n, d in delta.items()}


def checkpoints(steps: int) -> set[int]:
    """Return the steps after which the search looks back: p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06), of `steps`."""
    shares = [0, 22]  # hundredths
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    return {-(-share * steps // 100) for share in shares[1:] if share < 100}

"""Attacks that follow the gradient: FGSM, BIM, PGD, MIM."""

from __future__ import annotations

import torch

from recbole_rawp.core.ball import Ball, Weights, normalize, random_direction
from recbole_rawp.threats.adversarial.method import Method, register


@register("fgsm")
class FGSM(Method):
    """delta = normalize(g): one step from the weights themselves (Goodfellow et al., ICLR 2015).

    It is PGD with one step and no random start.
    """

    title = "FGSM"
    linear = True


@register("bim")
class BIM(Method):
    """delta <- project(delta + normalize(g) * 2.5 / n), n times, from the weights (Kurakin et al., 2017)."""

    title = "FGSM in steps (BIM)"
    iterates = True


@register("pgd")
class PGD(BIM):
    """BIM from a random point of the ball (Madry et al., ICLR 2018); the strongest of several restarts counts."""

    title = "PGD"
    restarts = True
    at_random = True

    def start(self, shapes: Weights, ball: Ball, generator: torch.Generator) -> Weights:
        """Return a point in a random direction, at a share ~ U(0, 1) of the radius."""
        share = float(torch.rand((), generator=generator))
        return normalize(random_direction(shapes, generator), ball.shrunk(share))


@register("mim")
class MIM(BIM):
    """BIM along the momentum m <- mu * m + g / ||g||_1, mu = 1 (Dong et al., CVPR 2018).

    The L1 norm is that of each tensor, or of each user's.
    """

    title = "FGSM in steps with momentum (MIM)"
    decay = 1.0

    def uphill(self, gradient: Weights, memory: dict[str, Weights], ball: Ball) -> Weights:
        """Return the momentum."""
        before = memory.get("momentum")
        momentum = {}
        for name, g in gradient.items():
            norm = g.abs().sum(dim=tuple(range(1 if ball.users else 0, g.dim())), keepdim=True)
            momentum[name] = torch.where(norm > 0, g / norm, 0.0) + (self.decay * before[name] if before else 0.0)
        memory["momentum"] = momentum
        return momentum

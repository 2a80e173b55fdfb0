"""Noise of the same norm: the control that every attack must beat."""

from __future__ import annotations

import torch

from recbole_rawp.core.ball import Ball, Weights, normalize, random_direction
from recbole_rawp.threats.adversarial.method import Method, register


@register("noise")
class Noise(Method):
    """Gaussian noise, stretched to the surface of the ball; it never asks for a gradient."""

    title = "random noise of the same norm"
    blind = True

    def start(self, shapes: Weights, ball: Ball, generator: torch.Generator) -> Weights:
        """Return the noise."""
        return normalize(random_direction(shapes, generator), ball)

    def steps(self, wanted: int) -> int:
        """Return 0: the start is all."""
        return 0

"""Attacks on hidden activations: outputs of hidden layers, before their activation function, are shifted.

One shift of each layer serves all users: the universal form of the noise that RAT (random layer-wise adversarial
training) puts on the activations of each example. Attacks per user move each candidate's own (`per_user`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from recbole_rawp.core import ball
from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.core.hooks import shifted, watched
from recbole_rawp.core.losses.attack_loss import AttackLoss, Source


class ActivationLoss(AttackLoss):
    """A loss as a function of the shifts: name of the layer -> [out], added to each of its outputs."""

    def __init__(self, model: nn.Module, source: Source, layers: dict[str, nn.Linear]) -> None:
        self.layers = layers
        zeros = {name: layer.weight.new_zeros(layer.out_features) for name, layer in layers.items()}
        super().__init__(model, source, {name: zero.requires_grad_() for name, zero in zeros.items()})
        self.typical = self._typical()

    def ball(self, radius: float, *, granularity: str, relative: bool = True) -> Ball:
        """Return the ball: L2 of a layer's shift (`row`) or each entry of it (`sign`).

        A relative radius is a share of the root mean square of that norm over the attacked batches.
        """
        granularity = "tensor" if granularity == "row" else granularity
        return ball.around(self.typical, radius, granularity=granularity, relative=relative)

    def at(self, delta: Weights) -> AbstractContextManager[None]:
        """Run the model with its activations shifted by delta."""
        shifts = {name: zero + delta[name] if name in delta else zero for name, zero in self.shapes.items()}
        return shifted({layer: shifts[name] for name, layer in self.layers.items()})

    def _typical(self) -> Weights:
        """Return the root mean square of each activation over the attacked batches, layer by layer, [out]."""
        squares = {name: torch.zeros_like(zero, requires_grad=False) for name, zero in self.shapes.items()}
        counts = dict.fromkeys(self.layers, 0)

        def count(name: str, output: Tensor) -> None:
            """Add the squares of one call."""
            rows = output.detach().reshape(-1, output.shape[-1])
            squares[name] += rows.square().sum(0)
            counts[name] += len(rows)

        with watched(self.layers, count), torch.no_grad():
            for _ in self._losses(lambda: self.at({})):
                pass
        return {name: (square / max(counts[name], 1)).sqrt() for name, square in squares.items()}

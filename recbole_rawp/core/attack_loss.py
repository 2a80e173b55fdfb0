"""The loss that an attack on all users raises, over training batches that stay the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from recbole_rawp.core import ball, restoring
from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.core.gradients import LossFunction, gradients, total
from recbole_rawp.core.overlay import exact, overlay
from recbole_rawp.core.restoring import seed_generators


class AttackLoss:
    """The loss `function` over fixed batches as a function of delta, with the same random numbers on each call.

    `delta` may hold some of the weights only; the others stay where they are.

    Attributes:
        shapes: name -> what moves (here the weights), with a gradient.
    """

    def __init__(self, model: nn.Module, function: LossFunction, batches: list[Any], weights: Weights) -> None:
        self.model, self.batches, self.shapes = model, batches, weights
        self.function = function
        self._at_weights: Weights | None = None

    def ball(self, radius: float, *, granularity: str, relative: bool = True) -> Ball:
        """Return the ball of this radius around the weights."""
        return ball.around(self.shapes, radius, granularity=granularity, relative=relative)

    def at(self, delta: Weights) -> AbstractContextManager[None]:
        """Run the model at w + delta, through which gradients reach w."""
        return overlay(self.model, {name: self.shapes[name] + change for name, change in delta.items()})

    def value(self, delta: Weights) -> float:
        """Return the mean loss over the batches at w + delta."""
        return self.mean(lambda: self.at(delta))

    def mean(self, run: Callable[[], AbstractContextManager[None]]) -> float:
        """Return the mean loss over the batches of the model that `run` enters."""
        with torch.no_grad():
            losses = [float(total(loss)) for loss in self._losses(run)]
        return sum(losses) / len(losses)

    def gradient(self, delta: Weights | None) -> Weights:
        """Return the gradient at w + delta by the weights in delta, summed over the batches.

        At w (None) it is by all weights, and computed once for all radii and modules.
        """
        if delta is None and self._at_weights is not None:
            return self._at_weights
        summed: Weights = {}
        names = self.shapes if delta is None else delta
        with torch.enable_grad(), exact(self.model):
            for loss in self._losses(lambda: self.at(delta or {})):
                found = gradients(loss, {name: self.shapes[name] for name in names})
                summed = {name: summed[name] + g if summed else g for name, g in found.items()}
        if delta is None:
            self._at_weights = summed
        return summed

    def _losses(self, run: Callable[[], AbstractContextManager[None]]) -> Iterator[Any]:
        for batch in self.batches:
            with restoring.rng(), restoring.state(self.model), run():
                seed_generators()
                yield self.function(batch)

"""The loss that an attack on all users raises, over batches that stay the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Union

import torch
from torch import Tensor, nn

from recbole_rawp.core import ball, restoring
from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.core.gradients import Loss, gradients, total
from recbole_rawp.core.overlay import exact, overlay
from recbole_rawp.core.restoring import seed_generators


class Judged(NamedTuple):
    """A loss that has a gradient, and the value of what it stands for, by which changes are compared."""

    climbed: Tensor
    value: float


@dataclass(frozen=True)
class Source:
    """What a loss is made of.

    Attributes:
        name: of the loss.
        forms: batch -> loss. Several are smoother and sharper forms of one loss, which restarts take in turn.
        batches: the same on every call; the loss is the mean over them.
        lost: the value from which nothing is left to take.
        ties: share of clean scores that equal that of an item to be found: those have no order, and no gradient.
    """

    name: str
    forms: tuple[Callable[[Any], Union[Loss, Judged]], ...]
    batches: list[Any]
    lost: float = math.inf
    ties: float = 0.0


class AttackLoss:
    """A loss over fixed batches as a function of delta, with the same random numbers on each call.

    `delta` may hold some of the weights only; the others stay where they are.

    Attributes:
        shapes: name -> what moves (here the weights), with a gradient.
        form: number of the form of the loss whose gradient is taken.
    """

    def __init__(
        self, model: nn.Module, source: Source, weights: Weights, *, beside: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take the loss of `source` around `weights`.

        `beside` holds every weight of another model of the same shapes, `weights` among them: its loss, then.
        """
        self.model, self.source, self.shapes = model, source, weights
        self.beside = dict(beside or {})
        self.form = 0
        self._at_weights: dict[int, tuple[float, Weights]] = {}

    def ball(self, radius: float, *, granularity: str, relative: bool = True) -> Ball:
        """Return the ball of this radius around the weights."""
        return ball.around(self.shapes, radius, granularity=granularity, relative=relative)

    def at(self, delta: Weights) -> AbstractContextManager[None]:
        """Run the model at w + delta, through which gradients reach w."""
        return overlay(self.model, self.beside | {name: self.shapes[name] + change for name, change in delta.items()})

    def value(self, delta: Weights) -> float:
        """Return the mean loss over the batches at w + delta."""
        return self.mean(lambda: self.at(delta))

    def mean(self, run: Callable[[], AbstractContextManager[None]]) -> float:
        """Return the mean loss over the batches of the model that `run` enters."""
        return self.means(run)[0]

    def means(self, run: Callable[[], AbstractContextManager[None]]) -> tuple[float, float]:
        """Return that, and the mean of what is climbed for it, which tells changes apart that leave every rank."""
        with torch.no_grad():
            losses = [judged(loss) for loss in self._losses(run)]
        return tuple(sum(column) / len(losses) for column in zip(*((one.value, float(one.climbed)) for one in losses)))

    def gradient(self, delta: Weights | None) -> Weights:
        """Return the gradient at w + delta by the weights in delta, summed over the batches."""
        return self.climb(delta)[1]

    def climb(self, delta: Weights | None) -> tuple[float, Weights]:
        """Return the mean loss at w + delta, and its gradient by the weights in delta, summed over the batches.

        At w (None) it is by all weights, and computed once for all radii and modules.
        """
        if delta is None and self.form in self._at_weights:
            return self._at_weights[self.form]
        summed: Weights = {}
        values = []
        names = self.shapes if delta is None else delta
        with torch.enable_grad(), exact(self.model):
            for loss in self._losses(lambda: self.at(delta or {})):
                values.append(judged(loss).value)
                climbed = loss.climbed if isinstance(loss, Judged) else loss
                found = gradients(climbed, {name: self.shapes[name] for name in names})
                summed = {name: summed[name] + g if summed else g for name, g in found.items()}
        mean = sum(values) / len(values)
        if delta is None:
            self._at_weights[self.form] = mean, summed
        return mean, summed

    def _losses(self, run: Callable[[], AbstractContextManager[None]]) -> Iterator[Any]:
        for batch in self.source.batches:
            with restoring.rng(), restoring.state(self.model), run():
                seed_generators()
                yield self.source.forms[self.form](batch)


def judged(loss: Loss | Judged) -> Judged:
    """Return a loss with its value."""
    if isinstance(loss, Judged):
        return loss
    summed = total(loss)
    return Judged(summed, float(summed.detach()))

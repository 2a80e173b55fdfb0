"""Defines an attack by three verbs: where it starts, in which direction it goes, how it moves.

A method says *how*; the ball, passed in, says how far. `Method.search` is the loop: it projects what each move returns,
and returns the best delta that it saw.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from recbole_rawp.core.ascent import STEP_SIZE
from recbole_rawp.core.ball import Ball, Weights, normalize, project


@dataclass(frozen=True)
class Objective:
    """What an attack climbs, of all users at once or of each of U users.

    Attributes:
        shapes: name -> a tensor shaped like delta.
        value: delta -> the loss, a number or [U].
        climb: delta (None: no change) -> the loss, and its gradient, name by name.
    """

    shapes: Weights
    value: Callable[[Weights], Tensor]
    climb: Callable[[Weights | None], tuple[Tensor, Weights]]

    def zero(self) -> Weights:
        """Return no change, written out."""
        return {name: torch.zeros_like(shape, requires_grad=False) for name, shape in self.shapes.items()}


class Found(NamedTuple):
    """The best delta that a search saw, its loss, and the loss where the search ended: numbers, or [U]."""

    delta: Weights
    value: Tensor
    last: Tensor


@dataclass
class Best:
    """The best delta so far, for all users or for each; a loss of NaN is the worst."""

    value: Tensor
    delta: Weights

    def offer(self, value: Tensor, delta: Weights) -> Tensor:
        """Take the delta where its loss is higher; return where."""
        worse = torch.nan_to_num(self.value, nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        higher = value > worse
        self.value = torch.where(higher, value, self.value)
        self.delta = where(higher, delta, self.delta)
        return higher


def where(condition: Tensor, one: Weights, other: Weights) -> Weights:
    """Return one delta or the other, for all users or for each."""
    if condition.dim() == 0:
        return one if bool(condition) else other
    return {
        name: torch.where(condition.reshape(-1, *[1] * (tensor.dim() - 1)), tensor, other[name])
        for name, tensor in one.items()
    }


class Method(ABC):
    """One gradient step as long as the ball allows; subclasses say where they differ.

    Attributes:
        title: for tables and legends.
        iterates: whether it takes several steps (`attack_steps`), or one.
        restarts: whether it may start anew, so that the strongest of several runs counts (`attack_restarts`).
        linear: whether it is normalize(gradient) and nothing else, which attacks per user have a shortcut for.
        at_random: whether it starts at random, so that its start alone changes the loss.
        blind: whether it looks at no loss, so that one draw can serve all users of a batch.
        black_box: whether it looks at the loss, and at no gradient.
        warm: whether it can start from a delta that another search found.
        from_twin: whether it is searched on another model of the same shapes, and carried over.
    """

    title: ClassVar[str]
    iterates: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    at_random: ClassVar[bool] = False
    blind: ClassVar[bool] = False
    black_box: ClassVar[bool] = False
    from_twin: ClassVar[bool] = False
    warm: ClassVar[bool] = False

    def start(self, shapes: Weights, ball: Ball, generator: torch.Generator) -> Weights | None:
        """Return the first delta; None is no change at all."""
        return None

    def uphill(self, gradient: Weights, memory: dict[str, Weights], ball: Ball) -> Weights:
        """Return the direction, from the gradient of the loss at the present delta and what `memory` keeps."""
        return gradient

    def move(self, delta: Weights | None, direction: Weights, ball: Ball, steps: int) -> Weights:
        """Return the next delta: one of `steps` steps of 2.5 * radius / steps along `direction` (one: of radius)."""
        step = normalize(direction, ball if steps == 1 else ball.shrunk(STEP_SIZE / steps))
        return step if delta is None else {name: delta[name] + change for name, change in step.items()}

    def steps(self, wanted: int) -> int:
        """Return how many steps are taken."""
        return wanted if self.iterates else 1

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
        """Return the delta, within `ball`, that the method finds; of several steps the best that it came by.

        Args:
            objective: what it climbs.
            ball: the bound.
            steps: number of steps, for attacks that iterate.
            generator: of random starts and noise.
            warm: a delta within the ball to start from, for methods that can.
            anew: whether this is a further start, at random for those that else begin at the weights.
        """
        delta, count = self.start(objective.shapes, ball, generator), self.steps(steps)
        memory: dict[str, Weights] = {}
        best: Best | None = None
        for _ in range(count):
            value, gradient = objective.climb(delta)
            if self.iterates:
                here = objective.zero() if delta is None else delta
                best = best or Best(value, here)
                best.offer(value, here)
            delta = project(self.move(delta, self.uphill(gradient, memory, ball), ball, count), ball)
        assert delta is not None, "a method without steps needs a start"
        delta = project(delta, ball)
        last = objective.value(delta)
        best = best or Best(last, delta)
        best.offer(last, delta)
        return Found(best.delta, best.value, last)


METHODS: dict[str, Method] = {}  # by the names that suites and records use


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Make a class of methods known under a name."""

    def add(kind: type[Method]) -> type[Method]:
        """Keep one method of this kind."""
        METHODS[name] = kind()
        return kind

    return add

"""Defines an attack by three verbs: where it starts, in which direction it goes, how it moves.

A method says *how*; the ball, passed in, says how far. `run` is the loop, and projects what each move returns.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import ClassVar

import torch

from recbole_rawp.core.ascent import STEP_SIZE, Gradient
from recbole_rawp.core.ball import Ball, Weights, normalize, project


class Method(ABC):
    """One gradient step as long as the ball allows; subclasses say where they differ.

    Attributes:
        title: for tables and legends.
        iterates: whether it takes several steps (`attack_steps`), or one.
        restarts: whether it starts at random, so that the strongest of several runs counts (`attack_restarts`).
        linear: whether it is normalize(gradient) and nothing else, which attacks per user have a shortcut for.
        blind: whether it looks at no gradient, so that one draw can serve all users of a batch.
    """

    title: ClassVar[str]
    iterates: ClassVar[bool] = False
    restarts: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    blind: ClassVar[bool] = False

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
        """Return how many steps the method takes where `wanted` are set."""
        return wanted if self.iterates else 1


def run(
    method: Method, gradient: Gradient, shapes: Weights, ball: Ball, *, steps: int, generator: torch.Generator
) -> Weights:
    """Return the delta, within `ball`, that the method finds.

    Args:
        method: one of `METHODS`.
        gradient: delta (None: no change) -> gradient of the loss there, name by name.
        shapes: name -> a tensor shaped like delta.
        ball: the bound.
        steps: number of steps, for attacks that iterate.
        generator: of random starts and noise.
    """
    delta = method.start(shapes, ball, generator)
    memory: dict[str, Weights] = {}
    count = method.steps(steps)
    for _ in range(count):
        delta = project(method.move(delta, method.uphill(gradient(delta), memory, ball), ball, count), ball)
    assert delta is not None, "a method without steps needs a start"
    return project(delta, ball)


METHODS: dict[str, Method] = {}  # by the names that suites and records use


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Make a class of methods known under a name."""

    def add(kind: type[Method]) -> type[Method]:
        """Keep one method of this kind."""
        METHODS[name] = kind()
        return kind

    return add

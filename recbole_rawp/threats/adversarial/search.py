"""Looks for the worst change of all users' weights by one method and one loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recbole_rawp.core.ball import Ball, Weights, normalize
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.errors import InputError
from recbole_rawp.threats.adversarial.method import Found, Method, Objective
from recbole_rawp.threats.threat import Context, Threat

RESTART = 7919  # between the seeds of two random starts
SETTLED = 0.5  # share of what a search gained that it must still have at its end


@dataclass
class Search:
    """Searches radius by radius, several times over where the method can start anew.

    Attributes:
        ball: loss, radius -> the bound around that loss's weights.
        restarts: how often; each takes another form of the loss, where it has several.
        best: what the last radius gave.
        others: of each other search, radius -> what it led to, from where this one goes on if that leaves less.
    """

    method: Method
    loss: AttackLoss
    ball: Callable[[AttackLoss, float], Ball]
    restarts: int
    steps: int
    context: Context
    best: Found | None = None
    others: Sequence[Mapping[float, Weights]] = ()

    @property
    def nothing_left(self) -> bool:
        """Whether the last radius left nothing to take; its change lies in every larger ball, too."""
        return self.best is not None and float(self.best.value) >= self.loss.source.lost

    def worst(self, radius: float) -> Found:
        """Return the best of all starts within the ball of a radius, or a smaller one; they end where nothing is left.

        Radii are to come in ascending order.
        """
        before, self.best = self.best, None
        found = self._on_twins(radius) if self.method.from_twin else self._starts(self.loss, radius, before)
        for one in found:
            if self.best is None or better(one.value, self.best.value):
                self.best = one
            if self.nothing_left:
                break
        assert self.best is not None
        if self.method.iterates and before is not None and better(before.value, self.best.value):
            self.best = before  # which lies in this ball, too
        for other in self.others:
            if radius in other and not self.nothing_left:
                self._go_on_from(other[radius], radius)
        return self.best

    def _go_on_from(self, delta: Weights, radius: float) -> None:
        """Search from a delta that raises the loss by more than the best one does."""
        assert self.best is not None
        if better(number_of(self.loss.value(delta)), self.best.value):
            how = {"steps": self.steps, "generator": torch.Generator().manual_seed(self.context.seed), "warm": delta}
            self.best = self.method.search(universal(self.loss), self.ball(self.loss, radius), **how)  # type: ignore[arg-type]

    def _starts(self, loss: AttackLoss, radius: float, before: Found | None = None) -> Iterator[Found]:
        """Yield what each start finds. The second is the change that a smaller radius gave, stretched to this one."""
        bound, objective = self.ball(loss, radius), universal(loss)
        for number in range(self.restarts if self.method.restarts else 1):
            generator = torch.Generator().manual_seed(self.context.seed + RESTART * number)
            warm = normalize(before.delta, bound) if before is not None and number == 1 else None
            loss.form = number % len(loss.source.forms)
            how = {"steps": self.steps, "generator": generator, "warm": warm, "anew": number > 0}
            yield self.method.search(objective, bound, **how)  # type: ignore[arg-type]
            loss.form = 0

    def _on_twins(self, radius: float) -> Iterator[Found]:
        """Yield what is found on each twin, stretched to this model's ball, with this model's loss."""
        bound = self.ball(self.loss, radius)
        for weights in (self.context.twins or {}).values():
            shapes = {name: weights[name].detach().clone().requires_grad_() for name in self.loss.shapes}
            twin = AttackLoss(self.loss.model, self.loss.source, shapes, beside={**weights, **shapes})
            for found in self._starts(twin, radius):
                delta = normalize(found.delta, bound)
                value = number_of(self.loss.value(delta))
                yield Found(delta, value, value)


def universal(loss: AttackLoss) -> Objective:
    """Return a loss as what a method climbs."""

    def climb(delta: Weights | None) -> tuple[Tensor, Weights]:
        """Return the loss and its gradient."""
        value, gradient = loss.climb(delta)
        return number_of(value), gradient

    return Objective(loss.shapes, lambda delta: number_of(loss.value(delta)), climb)


def number_of(value: float) -> Tensor:
    """Return a loss as searches compare it."""
    return torch.tensor(value, dtype=torch.float64)


def better(value: Tensor, than: Tensor) -> bool:
    """Tell whether a loss is higher; NaN is the lowest."""
    return bool(value > than) or bool(than.isnan() & ~value.isnan())


def unsettled(found: Found, clean: float) -> bool:
    """Tell whether a search had lost much of its gain at its end: its steps are too long, or its loss jumps."""
    gained, left = float(found.value) - clean, float(found.last) - clean
    return gained > 0 and (math.isnan(left) or left < SETTLED * gained)


def losses_of(threat: Threat, loss_of: Callable[[str], AttackLoss], context: Context) -> dict[str, AttackLoss]:
    """Return the losses that a threat climbs, by name; their gradients at the weights serve all on the same target.

    Raises:
        InputError: if the only one cannot be had; of several it is noted.
    """
    found: dict[str, AttackLoss] = {}
    for name in threat.losses:
        try:
            found[name] = loss_of(name)
        except InputError as error:
            if len(threat.losses) == 1:
                raise
            context.note(f"The {name} loss was not attacked: {error}")
            continue
        look_at_gradient(found[name], threat.target, f"{threat.name} {name}", name, context)
    return found


def look_at_gradient(loss: AttackLoss, target: Any, threat: str, name: str, context: Context) -> None:
    """Note what an attack on `target` cannot move, for the loss of that name has no gradient by it."""
    gradient = loss.gradient(None)
    whole = [n for n, g in gradient.items() if not g.any() or not g.isfinite().all()]
    rows = {n: float((g.flatten(1) == 0).all(1).float().mean()) for n, g in gradient.items() if g.dim() > 1}
    parts = [f"{share:.0%} of {n}" for n, share in rows.items() if share >= 0.01 and n not in whole]
    what = f"Target {target}: the {name} loss has"
    if whole:
        context.note(f"{what} no usable gradient by {', '.join(whole)}; only chance moves it.")
    if parts:
        context.note(
            f"{what} no gradient by some rows, which only chance moves: {', '.join(parts)} (users or items in none of "
            "the attacked batches, or units that are never active)."
        )
    if len(whole) == len(gradient):
        context.still.append(threat)

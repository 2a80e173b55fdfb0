"""Perturbations inside a norm ball as a threat: one change for all users, or one for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_rawp.core.attack_loss import AttackLoss
from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.threats.adversarial.activations import ActivationLoss
from recbole_rawp.threats.adversarial.method import METHODS, Method, run
from recbole_rawp.threats.adversarial.per_user.batch import Attacks, Key, attacked
from recbole_rawp.threats.adversarial.per_user.engine import PerUser, UserBatch
from recbole_rawp.threats.adversarial.words import PerturbationWords
from recbole_rawp.threats.setting import CLEAN, PER_USER, UNIVERSAL, Setting, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register

RESTART = 7919  # between the seeds of two random starts


@dataclass(frozen=True)
class Perturbation(Threat):
    """What moves, how far, for whom; and the methods that look for the worst such move.

    Attributes:
        variants: names of `METHODS`.
        target: `hidden`, `embeddings`, `all`, patterns over parameter names, or `activations`: the outputs of hidden
            layers before their activation function.
        levels: radii, sorted, from 0.
        granularity: what one norm spans, see `core.ball`; of activations, `row` is one layer's output (L2).
        unit: `relative` radii are shares of each group's norm, `absolute` ones the norm itself.
        scope: `universal`, one move for the whole evaluation, along the model's own training loss; or `per_user`, one
            for each user, along the cross entropy on the candidates of that user.
        labels: of that cross entropy: `pseudo`, the model's own clean answers, or `truth`. Empty if universal.
        iterations: of methods that iterate.
        restarts: of methods that start at random; the one with the highest loss counts.
        optional: whether a model without such a target is passed over, or refused.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    granularity: str = "tensor"
    unit: str = "relative"
    scope: str = UNIVERSAL
    labels: str = ""
    iterations: int = 10
    restarts: int = 1
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "target": None,
        "granularity": "tensor",
        "unit": "relative",
        "scope": UNIVERSAL,
        "labels": "pseudo",
        "steps": 10,
        "restarts": 1,
        "radii": None,
    }

    @property
    def setting(self) -> Setting:
        """Return what its curves share."""
        return Setting(target_name(self.target), self.granularity, f"{self.unit} radius", self.scope, self.labels)

    @property
    def relative(self) -> bool:
        """Whether radii are shares of each group's norm."""
        return self.unit == "relative"

    def steps(self, variant: str) -> int:
        """Return how many steps a method takes, for records."""
        return max(1, METHODS[variant].steps(self.iterations))

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the changes of every method, the clean model first, then radius by radius."""
        loss = self._loss(context)
        look_at_gradient(loss, self, context)
        at_w = loss.value({})
        for variant in self.variants:
            yield Change(variant, CLEAN, partial(loss.at, {}), at_w)
            for radius in self.levels[1:]:
                bound = loss.ball(radius, granularity=self.granularity, relative=self.relative)
                delta = worst_change(
                    METHODS[variant], loss, bound, restarts=self.restarts, steps=self.iterations, seed=context.seed
                )
                yield Change(variant, radius, partial(loss.at, delta), loss.value(delta))

    def attacked(
        self, users: UserBatch, engine_of: Callable[[UserBatch], PerUser], seed: int, rows: int | None = None
    ) -> Iterator[tuple[Key, Tensor, Tensor]]:
        """Yield (variant, level), logits [U, n] and losses [U] of a batch of users, see `per_user.batch.attacked`."""
        return attacked(users, engine_of, self.attacks, seed, rows)

    @property
    def attacks(self) -> Attacks:
        """Return what the engines per user need to know."""
        keys = [(variant, radius) for variant in self.variants for radius in self.levels[1:]]
        return Attacks(keys, self.granularity, self.relative, self.iterations, self.restarts)

    def _loss(self, context: Context) -> AttackLoss:
        """Return the attacked loss; its gradient at the weights serves all threats to the same target."""
        if self.target == "activations" and self.target not in context.losses:
            layers = context.moved(self.target)
            loss = ActivationLoss(context.model, context.training_loss, context.batches, layers)
            context.losses[self.target] = loss
        return context.loss(self.target)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat; the reverse of `of`."""
        found = {"methods": self.variants, "target": self.target, "granularity": self.granularity, "unit": self.unit}
        found |= {"scope": self.scope} | ({"labels": self.labels} if self.labels else {})
        return found | {"steps": self.iterations, "restarts": self.restarts, "radii": self.levels}

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a granularity that does not exist for its target and scope."""
        per_user = entry["scope"] == PER_USER
        activations = entry["target"] == "activations"
        known = ("row", "sign") if activations else ("row",) if per_user else None
        if known is None or entry["granularity"] in known:
            return ""
        what = "attacks per user" if per_user else "attacks on activations"
        return (
            f"attack_granularity: the suite's {entry['granularity']!r} does not go with {what}. "
            f"Set attack_granularity={' or '.join(known)}."
        )

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Perturbation:
        """Return the threat that a complete entry of a suite describes."""
        return cls(
            variants=entry["variants"],
            target=entry["target"],
            levels=tuple(sorted({CLEAN, *map(float, entry["radii"])})),
            granularity=entry["granularity"],
            unit=entry["unit"],
            scope=entry["scope"],
            labels=entry["labels"] if entry["scope"] == PER_USER else "",
            iterations=entry["steps"],
            restarts=entry["restarts"],
            optional=entry["optional"],
        )


def look_at_gradient(loss: AttackLoss, threat: Perturbation, context: Context) -> None:
    """Note what the attack cannot move, for the loss has no gradient by it."""
    gradient = loss.gradient(None)
    whole = [name for name, g in gradient.items() if not g.any() or not g.isfinite().all()]
    rows = {name: float((g.flatten(1) == 0).all(1).float().mean()) for name, g in gradient.items() if g.dim() > 1}
    parts = [f"{share:.0%} of {name}" for name, share in rows.items() if share >= 0.01 and name not in whole]
    if whole:
        context.note(
            f"Target {threat.target}: the loss has no usable gradient by {', '.join(whole)}; only noise moves it."
        )
    if parts:
        context.note(
            f"Target {threat.target}: rows without gradient, which only noise moves: {', '.join(parts)} (users or "
            "items in none of the attacked batches, or units that are never active)."
        )
    if len(whole) == len(gradient):
        context.still.append(threat.name)


def worst_change(method: Method, loss: AttackLoss, bound: Ball, *, restarts: int, steps: int, seed: int) -> Weights:
    """Return the delta that the method finds; of several random starts the one with the highest loss, NaN the last."""
    starts = range(restarts if method.restarts else 1)
    best: tuple[float, Weights] | None = None
    for number in starts:
        generator = torch.Generator().manual_seed(seed + RESTART * number)
        delta = run(method, loss.gradient, loss.shapes, bound, steps=steps, generator=generator)
        value = loss.value(delta) if len(starts) > 1 else 0.0
        value = -math.inf if math.isnan(value) else value
        if best is None or value > best[0]:
            best = value, delta
    assert best is not None
    return best[1]


register(
    Perturbation,
    {
        name: Variant(
            method.title,
            control=method.blind,
            climbs=not method.blind,
            iterates=method.iterates,
            starts_at_random=method.restarts,
        )
        for name, method in METHODS.items()
    },
    {f"{unit} radius": PerturbationWords(unit) for unit in ("relative", "absolute")},
)

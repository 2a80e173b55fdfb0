"""Perturbations inside a norm ball as a threat: one change for all users, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from recbole_rawp.core.ball import Ball, Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.threats.adversarial.activations import ActivationLoss
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.adversarial.per_user.batch import Attacks, Key, attacked
from recbole_rawp.threats.adversarial.per_user.engine import PerUser, UserBatch
from recbole_rawp.threats.adversarial.search import Search, losses_of, unsettled
from recbole_rawp.threats.adversarial.words import PerturbationWords
from recbole_rawp.threats.entries import graded, loss_word, losses_named
from recbole_rawp.threats.setting import CLEAN, PER_USER, TRAINING, UNIVERSAL, WORST, Setting, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register


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
        scope: `universal`, one move for the whole evaluation; or `per_user`, one for each user, along a loss on the
            candidates of that user.
        losses: `training`, the model's own (per user: the cross entropy), `ranking`, a smooth form of the metric; both
            if the worst counts.
        labels: of a user's loss: `pseudo`, the model's own clean answers, or `truth`. Empty if universal.
        iterations: of methods that iterate.
        restarts: of methods that can start anew; the one with the highest loss counts.
        optional: whether a model without such a target is passed over, or refused.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    granularity: str = "tensor"
    unit: str = "relative"
    scope: str = UNIVERSAL
    losses: tuple[str, ...] = (TRAINING,)
    labels: str = ""
    iterations: int = 10
    restarts: int = 1
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "target": None,
        "granularity": "tensor",
        "unit": "relative",
        "scope": UNIVERSAL,
        "loss": WORST,
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
        """Yield the changes of every method, loss by loss: the clean model first, then radius by radius.

        Methods that can start anywhere come last: they go on from what breaks a twin.
        """
        losses = losses_of(self, partial(self._loss, context), context)
        clean = {name: loss.value({}) for name, loss in losses.items()}
        carried: list[dict[float, Weights]] = []
        for variant in sorted(self.variants, key=lambda name: METHODS[name].warm):
            method = METHODS[variant]
            if method.from_twin and not context.twins:
                if context.twins is not None:
                    context.note(f"No other model of the same shapes was at hand, so {variant} was not tried.")
                continue
            known = [*carried]
            for name in self.climbed(variant):
                own = {name: losses[name]} if name in losses else {} if name else losses
                if own:
                    found: dict[float, Weights] = {}
                    yield from self._changes(variant, name, own, clean, context, known, found)
                    known.append(found)
            if method.from_twin:
                carried = known

    def _changes(
        self,
        variant: str,
        name: str,
        losses: Mapping[str, AttackLoss],
        clean: Mapping[str, float],
        context: Context,
        known: Sequence[Mapping[float, Weights]],
        found_by_radius: dict[float, Weights],
    ) -> Iterator[Change]:
        """Yield the changes that a method finds by one loss, or without any; where nothing is left, the last again.

        A method that can start anywhere goes on from the `known` ones, radius by radius; its own are noted.
        """
        first = next(iter(losses.values()))
        yield Change(variant, CLEAN, partial(first.at, {}), {own: clean[own] for own in losses}, name)
        method = METHODS[variant]
        search = Search(method, first, self._ball, self.restarts, self.iterations, context)
        search.others = known if method.warm else ()
        change: Change | None = None
        for radius in self.levels[1:]:
            if change is None or not (name and search.nothing_left):
                found = search.worst(radius)
                found_by_radius[radius] = found.delta
                values = {
                    own: float(found.value) if own == name else loss.value(found.delta) for own, loss in losses.items()
                }
                settled = not name or not unsettled(found, clean[name])
                change = Change(variant, radius, partial(first.at, found.delta), values, name, settled)
            yield replace(change, level=radius)

    def _ball(self, loss: AttackLoss, radius: float) -> Ball:
        return loss.ball(radius, granularity=self.granularity, relative=self.relative)

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

    def _loss(self, context: Context, name: str) -> AttackLoss:
        if self.target == "activations" and (self.target, name) not in context.losses:
            layers = context.moved(self.target)
            context.losses[self.target, name] = ActivationLoss(context.model, context.source(name), layers)
        return context.loss(self.target, name)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat; the reverse of `of`."""
        found = {"methods": self.variants, "target": self.target, "granularity": self.granularity, "unit": self.unit}
        found |= {"scope": self.scope, "loss": loss_word(self.losses)}
        found |= {"labels": self.labels} if self.labels else {}
        return found | {"steps": self.iterations, "restarts": self.restarts, "radii": self.levels}

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a granularity, or with methods, that do not go with target and scope, or alone."""
        per_user = entry["scope"] == PER_USER
        carried = [name for name in entry["variants"] if METHODS[name].from_twin]
        if per_user and carried:
            return (
                f"attack: {carried[0]} carries one change over, and attacks per user have one for each. Leave it out."
            )
        if len(carried) == len(entry["variants"]):
            return f"attack: {carried[0]} alone measures nothing where there is no plain twin. Name apgd beside it."
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
            levels=graded(entry["radii"]),
            granularity=entry["granularity"],
            unit=entry["unit"],
            scope=entry["scope"],
            losses=losses_named(entry["loss"]),
            labels=entry["labels"] if entry["scope"] == PER_USER else "",
            iterations=entry["steps"],
            restarts=entry["restarts"],
            optional=entry["optional"],
        )


register(
    Perturbation,
    {
        name: Variant(
            method.title,
            control=method.blind,
            climbs=not method.blind,
            iterates=method.iterates,
            starts_at_random=method.at_random,
            carried=method.from_twin,
            black_box=method.black_box,
        )
        for name, method in METHODS.items()
    },
    {f"{unit} radius": PerturbationWords(unit) for unit in ("relative", "absolute")},
)

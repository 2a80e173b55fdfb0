"""Defines a threat: a way in which a model comes to differ from what was trained, measured at several levels.

A new kind of threat is one file in this folder: a subclass of `Threat` and one of `Words`, registered by `register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from recbole_rawp.threats.setting import TRAINING, UNIVERSAL, WORDS, Setting, Words

if TYPE_CHECKING:
    from recbole_rawp.core.ball import Weights
    from recbole_rawp.core.losses.attack_loss import AttackLoss, Source


@dataclass(frozen=True)
class Variant:
    """One form of a threat, under the name that records carry.

    Attributes:
        title: for tables and legends.
        control: whether it is an innocent change of the same size, which the others must beat.
        climbs: whether it follows a loss uphill, so that the loss must rise.
        iterates: whether it takes several steps.
        starts_at_random: whether its start alone changes the loss.
        black_box: whether it looks at the loss alone, and at no gradient.
        carried: whether it is found on another model, so that models without such a twin do not meet it.
    """

    title: str
    control: bool = False
    climbs: bool = False
    iterates: bool = False
    starts_at_random: bool = False
    black_box: bool = False
    carried: bool = False


@dataclass
class Context:
    """What the host hands to a threat.

    Attributes:
        model: in evaluation mode.
        moved: target -> what it names: weights by name, or the hidden layers for `activations`.
        sources: name of a loss -> what it is made of; asked for when it is first climbed.
        around: source, weights -> that loss as a function of a change of these weights.
        seed: of whatever is drawn.
        twins: name -> every weight of another model of the same shapes: the plain one, or one of another seed;
            None for a plain model, which needs none.
        other: a file -> every parameter in a checkpoint of a model of the same shapes.
        notes: what the reader must know; each once.
        still: names of threats that nothing moves, for the loss has no gradient.
        losses: (target, name) -> the attacked loss; its gradient at the weights serves all threats to that target.
        known: name of a loss -> its source, once asked for.
    """

    model: nn.Module
    moved: Callable[[Any], dict[str, Any]]
    sources: Mapping[str, Callable[[], Source]]
    around: Callable[[Source, Weights], AttackLoss]
    seed: int
    twins: Mapping[str, Weights] | None = field(default_factory=dict)
    other: Callable[[str], Weights] | None = None
    notes: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)
    losses: dict[Any, AttackLoss] = field(default_factory=dict)
    known: dict[str, Source] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Note something once."""
        if text not in self.notes:
            self.notes.append(text)

    def source(self, name: str) -> Source:
        """Return what the loss of that name is made of."""
        if name not in self.known:
            self.known[name] = self.sources[name]()
        return self.known[name]

    def loss(self, target: Any, name: str = TRAINING) -> AttackLoss:
        """Return the loss of that name as a function of a change of the weights that `target` names."""
        if (target, name) not in self.losses:
            self.losses[target, name] = self.around(self.source(name), self.moved(target))
        return self.losses[target, name]


@dataclass(frozen=True)
class Change:
    """One change of the model for all users.

    Attributes:
        variant: its name in records.
        level: how much; `CLEAN` for none.
        run: enters the changed model; outside, weights are bit for bit what they were. Equal objects: the same change.
        losses: name -> that loss of the changed model.
        climbs: the name of the loss by which it was found; empty if it looks at none.
        settled: whether the search ended about where it was best.
    """

    variant: str
    level: float
    run: Callable[[], AbstractContextManager[None]]
    losses: Mapping[str, float]
    climbs: str = ""
    settled: bool = True


class Threat(ABC):
    """One entry of a suite: variants of a threat, at levels. Subclasses are frozen dataclasses with these fields.

    Attributes:
        variants: names in `VARIANTS`, as records carry them.
        target: what differs, see `Setting`.
        levels: ascending numbers that grow with severity, `CLEAN` first. Of bits, say, those that are taken away.
        scope: for whom it is one change: `UNIVERSAL`, or `PER_USER`.
        losses: names of those that its variants climb, each by itself; and those that are measured.
        draws: how often a random variant is drawn anew at each level; of several, the median counts, and the worst as
            the variant `NAME_worst`.
        checkpoint: a file that it needs; None for none.
        optional: whether a model without such a target is passed over, or refused.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    scope: str = UNIVERSAL
    losses: tuple[str, ...] = (TRAINING,)
    draws: int = 1
    checkpoint: str | None = None
    optional: bool

    # What an entry may say, and its default. Values that have no option attack_KEY are for `check` to check.
    DEFAULTS: ClassVar[Mapping[str, Any]] = {}

    @property
    @abstractmethod
    def setting(self) -> Setting:
        """Return what its curves share."""

    @property
    def name(self) -> str:
        """Return the setting for messages: `hidden/row/per_user/pseudo`."""
        return self.setting.words.short(self.setting)

    def steps(self, variant: str) -> int:
        """Return how many steps a variant takes, for records."""
        return 1

    def climbed(self, variant: str) -> tuple[str, ...]:
        """Return the names of the losses that a variant climbs one by one; an empty one if it looks at none."""
        return self.losses if VARIANTS[variant].climbs else ("",)

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the changes of every variant, the clean model first, then level by level."""
        raise NotImplementedError(f"{type(self).__name__} has no change for all users")

    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat; the reverse of `of`."""

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with an entry of a suite of this kind, a reason and a remedy; empty if nothing."""
        return ""

    @classmethod
    @abstractmethod
    def of(cls, entry: Mapping[str, Any]) -> Threat:
        """Return the threat that a complete entry of a suite describes; `variants` and lists of targets are tuples."""


VARIANTS: dict[str, Variant] = {}
KINDS: dict[str, type[Threat]] = {}  # variant -> the class of threats that has it


def joined(threats: Iterable[Threat]) -> tuple[Threat, ...]:
    """Return the threats, of those that differ in variants alone one with all of these."""
    found: dict[Threat, Threat] = {}
    for threat in threats:
        same = replace(threat, variants=())  # type: ignore[type-var]
        variants = (*found[same].variants, *threat.variants) if same in found else threat.variants
        found[same] = replace(threat, variants=tuple(dict.fromkeys(variants)))  # type: ignore[type-var]
    return tuple(found.values())


def register(kind: type[Threat], variants: Mapping[str, Variant], words: Mapping[str, Words]) -> None:
    """Make a kind of threat known: its variants, and the words of each of its units.

    Raises:
        ValueError: if a name or unit is taken.
    """
    taken = (variants.keys() & VARIANTS.keys()) | (words.keys() & WORDS.keys())
    if taken:
        raise ValueError(f"threats: {', '.join(sorted(taken))} registered twice")
    VARIANTS.update(variants)
    KINDS.update(dict.fromkeys(variants, kind))
    WORDS.update(words)

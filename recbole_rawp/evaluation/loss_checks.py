"""Self-checks of the losses that attacks raise.

Of several methods the strongest at each level counts. A small delta lies in every larger ball, too, so the loss of the
worst one can only grow with the radius if the search is any good.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.evaluation.records import LOSS, Record
from recbole_rawp.threats.setting import CLEAN, SETTING, Setting
from recbole_rawp.threats.threat import VARIANTS

# Share of the loss's rise by which it may miss a bound: where a loss is nearly linear FGSM is the best there is.
SLACK = 0.02
SLIGHT = 0.001  # share of the clean loss: a difference that no ranking shows
STRONGEST = "strongest method"


@dataclass
class Losses:
    """One loss of one threat: (variant, level) -> its value. `threat` and `loss` name them."""

    threat: str
    loss: str
    values: dict[tuple[str, float], float] = field(default_factory=dict)

    def __getitem__(self, key: tuple[str, float]) -> float:
        return self.values[key]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.values)

    def __contains__(self, key: object) -> bool:
        return key in self.values


def losses_by_threat(records: Iterable[Record]) -> list[Losses]:
    """Return the attacked losses of each threat."""
    found: dict[tuple[str, str], Losses] = {}
    for record in records:
        if record.metric == LOSS:
            key = named(record), record.loss
            found.setdefault(key, Losses(*key)).values[record.threat, record.level] = record.value
    return list(found.values())


def named(record: Record) -> str:
    """Return the name of the record's threat."""
    setting = Setting(**{name: getattr(record, name) for name in SETTING})
    return setting.words.short(setting)


def climbs(losses: Losses) -> list[tuple[str, float]]:
    """Return the attacked (variant, level) that follow a gradient."""
    known = [(variant, level) for variant, level in losses if level != CLEAN]
    return [key for key in known if VARIANTS[key[0]].climbs and not VARIANTS[key[0]].black_box]


def has_gradient(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """Each variant that starts at the weights changes the loss, at its highest level; a random start does by itself."""
    last = dict(sorted(climbs(losses), key=lambda case: case[1]))
    cases = [(variant, level) for variant, level in last.items() if not VARIANTS[variant].starts_at_random]
    return [(variant, level, losses[variant, level] != losses[variant, CLEAN]) for variant, level in cases]


def highest(losses: Losses, *, iterates: bool | None = None) -> dict[float, float]:
    """Return the highest loss of a variant that follows the gradient at each level, the clean one too."""
    found: dict[float, float] = {}
    for variant, level in climbs(losses):
        if iterates is None or VARIANTS[variant].iterates == iterates:
            found[CLEAN] = losses[variant, CLEAN]
            found[level] = nan_max(found.get(level, -math.inf), losses[variant, level])
    return dict(sorted(found.items()))


def beats_noise(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """The strongest variant is stronger than the control, an innocent change of the same size.

    But for `SLIGHT`: a model that hardly feels either has units that are never active, which chance alone can reach;
    and the exact form of a ranking loss goes in steps.
    """
    found = highest(losses)
    controls = [variant for variant in dict.fromkeys(name for name, _ in losses) if VARIANTS[variant].control]
    return [
        (
            STRONGEST,
            level,
            found[level] > losses[control, level]
            or losses[control, level] - found[level] <= SLIGHT * abs(found[CLEAN]),
        )
        for level in found
        for control in controls
        if level != CLEAN and (control, level) in losses
    ]


def black_box_is_weaker(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """A search that looks at no gradient finds nothing stronger: else the model hides its gradients."""
    found = highest(losses)
    blind = [key for key in losses if VARIANTS[key[0]].black_box and key[1] in found and key[1] != CLEAN]
    return [(*key, at_least(found[key[1]], losses[key], found[CLEAN])) for key in blind]


def settled(losses: Losses, *, unsettled: Collection[tuple[str, str, str, float]]) -> Iterable[tuple[Any, Any, bool]]:
    """The search with the highest loss ended with most of what it had gained: else steps are too long, or it jumps."""
    found = highest(losses, iterates=True)
    strongest = [key for key in climbs(losses) if key[1] in found and losses[key] == found[key[1]]]
    return [(*key, (losses.threat, losses.loss, *key) not in unsettled) for key in strongest]


def steps_help(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """The strongest variant that iterates is about as strong as one step, or stronger."""
    found, once = highest(losses, iterates=True), highest(losses, iterates=False)
    levels = [level for level in found if level != CLEAN and level in once]
    return [(STRONGEST, level, at_least(found[level], once[level], found[CLEAN])) for level in levels]


def grows(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """The loss of the strongest variant that iterates is about as high as at the level before, or higher.

    One step alone may well overshoot.
    """
    found = highest(losses, iterates=True)
    pairs = zip(found, list(found)[1:])
    return [(STRONGEST, level, at_least(found[level], found[before], found[CLEAN])) for before, level in pairs]


def at_least(value: float, bound: float, start: float) -> bool:
    """Tell whether a loss reaches a bound, but for `SLACK` of the rise from `start`; NaN does not."""
    return value >= bound - SLACK * abs(bound - start)


def nan_max(one: float, other: float) -> float:
    """Return the larger number, NaN if either is."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)

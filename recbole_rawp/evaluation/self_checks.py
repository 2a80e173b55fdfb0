"""Self-checks that say whether the numbers can be trusted.

Checks compare the attacked loss, never a ranking metric: a hardened model's metric may rise under attack. Of several
methods the strongest at each radius counts. A small delta lies in every larger ball too, so the loss of the worst one
can only grow with the radius if the search is any good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recbole_rawp.evaluation.records import FAILED, LOSS, NOT_APPLICABLE, PASSED, Check, Record
from recbole_rawp.threats.setting import CLEAN, SETTING, UNIVERSAL, Setting
from recbole_rawp.threats.threat import VARIANTS

if TYPE_CHECKING:
    from recbole_rawp.evaluation.robustness import Outcome

# Share of the loss's rise by which it may miss a bound: where a loss is nearly linear FGSM is the best there is.
SLACK = 0.02
STRONGEST = "strongest method"

Case = tuple[str, Any, Any, bool]  # threat, variant, level, whether it holds
Losses = dict[tuple[str, float], float]  # (variant, level) -> the attacked loss, of one threat


def verify(
    outcome: Outcome, clean: Mapping[str, float] | None, *, decimals: int, scopes: Sequence[str] = (UNIVERSAL,)
) -> list[Check]:
    """Check what `robustness.under_attack` found about one model.

    Args:
        outcome: the attacks' records, and whether the scores follow the weights.
        clean: what RecBole's own evaluation of the same model said; None where its candidates are drawn anew.
        decimals: to which RecBole rounded it (`metric_decimal_place`).
        scopes: those that rank the same candidates.
    """
    records = outcome.records
    threats = losses_by_setting(records)
    follows = [("", name, "", False) for name in outcome.unmoved or ()] or [("", "", "", True)]
    still = [(name, "nothing moves", "", False) for name in outcome.still]
    cases = {
        "all values are finite": finite(records, threats),
        "the attack has a gradient": over(threats, has_gradient) + still,
        "the attack raises the loss more than noise of the same norm": over(threats, beats_noise),
        "more steps are no weaker than one": over(threats, steps_help),
        "the loss grows with the radius": over(threats, grows),
        "scores follow the weights (no stale cache)": [] if outcome.unmoved is None else follows,
        "radius 0 equals RecBole's own evaluation": equal(records, clean or {}, scopes, 0.5001 * 10.0**-decimals),
    }
    return [conclude(outcome.subject.defense, name, found) for name, found in cases.items()]


def finite(records: list[Record], threats: Mapping[str, Losses]) -> list[Case]:
    """No value is NaN or infinite."""
    return [(where(r, threats), r.threat, r.level, math.isfinite(r.value)) for r in records]


def equal(records: list[Record], clean: Mapping[str, float], scopes: Sequence[str], tolerance: float) -> list[Case]:
    """The clean values of these scopes are RecBole's, but for rounding."""
    at_zero = {(r.scope, r.metric): r.value for r in records if r.level == CLEAN}
    return [
        ("", metric, value, abs(at_zero[scope, metric] - value) <= tolerance)
        for scope in scopes
        for metric, value in clean.items()
        if (scope, metric) in at_zero
    ]


def conclude(defense: str, name: str, cases: list[Case]) -> Check:
    """Return passed if every case holds; without a case the check does not apply."""
    broken = [" ".join(map(str, filter(None, case[:3]))) for case in cases if not case[3]]
    status = FAILED if broken else PASSED if cases else NOT_APPLICABLE
    return Check(defense, name, status, ", ".join(dict.fromkeys(broken)))


def losses_by_setting(records: Iterable[Record]) -> dict[str, Losses]:
    """Return the attacked losses of each threat, by its name."""
    threats: dict[str, Losses] = {}
    for record in records:
        if record.metric == LOSS:
            threats.setdefault(named(record), {})[record.threat, record.level] = record.value
    return threats


def named(record: Record) -> str:
    """Return the name of the record's threat."""
    setting = Setting(**{name: getattr(record, name) for name in SETTING})
    return setting.words.short(setting)


def where(record: Record, threats: Mapping[str, Losses]) -> str:
    """Return the threat's name where there are several."""
    return named(record) if len(threats) > 1 else ""


def over(threats: Mapping[str, Losses], test: Callable[[Losses], Iterable[tuple[Any, Any, bool]]]) -> list[Case]:
    """Return the cases of a test over all threats."""
    return [(name if len(threats) > 1 else "", *case) for name, losses in threats.items() for case in test(losses)]


def climbs(losses: Losses) -> list[tuple[str, float]]:
    """Return the attacked (variant, level) that follow a gradient."""
    return [(variant, level) for variant, level in losses if VARIANTS[variant].climbs and level != CLEAN]


def has_gradient(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """Each variant that starts at the weights changes the loss; a random start changes it by itself."""
    cases = [(variant, level) for variant, level in climbs(losses) if not VARIANTS[variant].starts_at_random]
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
    """The strongest variant is stronger than the control, noise of the same norm."""
    found = highest(losses)
    controls = [variant for variant in dict.fromkeys(name for name, _ in losses) if VARIANTS[variant].control]
    return [
        (STRONGEST, level, found[level] > losses[control, level])
        for level in found
        for control in controls
        if level != CLEAN and (control, level) in losses
    ]


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

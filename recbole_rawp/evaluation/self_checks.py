"""Self-checks that say whether the numbers can be trusted.

Most compare the attacked losses (`loss_checks`), not a ranking metric: a hardened model's metric may rise under attack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from recbole_rawp.evaluation.loss_checks import (
    Losses,
    beats_noise,
    black_box_is_weaker,
    grows,
    has_gradient,
    losses_by_threat,
    named,
    settled,
    steps_help,
)
from recbole_rawp.evaluation.records import FAILED, NOT_APPLICABLE, PASSED, Check, Record
from recbole_rawp.threats.setting import CLEAN, RANKING, TRAINING, UNIVERSAL, Setting

if TYPE_CHECKING:
    from recbole_rawp.evaluation.robustness import Outcome


NEAR = 0.05  # share of the clean metric by which two attacks may differ
TIES = 0.05  # share of scores that may equal one to be found
BUDGET = "hardening kept the clean score (rawp_clean_budget)"
PLAIN_KEPT = "the plain model was kept (rawp_keep_plain), NOT hardened"  # in the details of that check
UNDERTRAINED = "the clean model ranks better than popularity (trained enough to tell)"

Case = tuple[str, Any, Any, bool]  # threat, variant, level, whether it holds


def verify(
    outcome: Outcome,
    clean: Mapping[str, float] | None,
    *,
    decimals: int,
    metric: str = "",
    bigger: bool = True,
    scopes: Sequence[str] = (UNIVERSAL,),
) -> list[Check]:
    """Check what `robustness.under_attack` found about one model.

    Args:
        outcome: the attacks' records, and what else was seen of the model.
        clean: what RecBole's own evaluation of the same model said; None where its candidates are drawn anew.
        decimals: to which RecBole rounded it (`metric_decimal_place`).
        metric, bigger: the valid metric, and whether more of it is better.
        scopes: those that rank the same candidates.
    """
    records = outcome.records
    threats = losses_by_threat(records)
    follows = [("", name, "", False) for name in outcome.unmoved or ()] or [("", "", "", True)]
    still = [(name, "nothing moves", "", False) for name in outcome.still]
    ties = [] if outcome.ties is None else [("", f"{outcome.ties:.0%} tie", "", outcome.ties <= TIES)]
    cases = {
        "all values are finite": finite(records, threats),
        "the attack has a gradient": over(threats, has_gradient) + still,
        "the attack raises the loss more than its control": over(threats, beats_noise),
        "no search without gradients is stronger": over(threats, black_box_is_weaker),
        "more steps are no weaker than one": over(threats, steps_help),
        "the loss grows with the level": over(threats, grows),
        "the strongest search ended where it was best": over(threats, partial(settled, unsettled=outcome.unsettled)),
        "the ranking loss hits the metric no less than the training loss": ranking_hits(records, metric, bigger=bigger),
        "scores tell items apart (they do not saturate)": ties,
        "scores follow the weights (no stale cache)": [] if outcome.unmoved is None else follows,
        UNDERTRAINED: learned(records, metric, outcome.popularity, bigger=bigger),
        "level 0 equals RecBole's own evaluation": equal(records, clean or {}, scopes, 0.5001 * 10.0**-decimals),
    }
    return [conclude(outcome.subject.defense, name, found) for name, found in cases.items()]


def finite(records: list[Record], threats: Sequence[Losses]) -> list[Case]:
    """No value is NaN or infinite; but what nobody looked for the worst of, a flipped bit say, may end a model so."""
    sought = [r for r in records if r.level == CLEAN or Setting(unit=r.unit).words.adversary]
    return [(where(r, threats), r.threat, r.level, math.isfinite(r.value)) for r in sought]


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


def where(record: Record, threats: Sequence[Losses]) -> str:
    """Return the threat's name where there are several."""
    return named(record) if len({losses.threat for losses in threats}) > 1 else ""


def over(threats: Sequence[Losses], test: Callable[[Losses], Iterable[tuple[Any, Any, bool]]]) -> list[Case]:
    """Return the cases of a test over all threats and losses, which are named where there are several."""
    several, losses = len({one.threat for one in threats}) > 1, len({one.loss for one in threats}) > 1
    return [
        (" ".join(filter(None, (one.threat * several, f"({one.loss} loss)" * losses))), *case)
        for one in threats
        for case in test(one)
    ]


def ranking_hits(records: Iterable[Record], metric: str, *, bigger: bool) -> list[Case]:
    """At each level the ranking loss leaves no more of the metric than the training loss, but for `NEAR` of the clean.

    It looks at what is measured; if it misses that, its search got stuck. Of changes for all users.
    """
    left: dict[tuple[str, float, str], float] = {}
    clean = dict[str, float]()
    sign = 1 if bigger else -1
    for record in records:
        if record.metric == metric and record.scope == UNIVERSAL and record.loss:
            key, value = (named(record), record.level, record.loss), sign * record.value
            left[key] = min(value, left.get(key, value))
            if record.level == CLEAN:
                clean[named(record)] = value
    return [
        (threat, "ranking", level, value <= left[threat, level, TRAINING] + NEAR * abs(clean[threat]))
        for (threat, level, loss), value in left.items()
        if loss == RANKING and level != CLEAN and (threat, level, TRAINING) in left
    ]


def learned(records: Iterable[Record], metric: str, popularity: Mapping[str, float], *, bigger: bool) -> list[Case]:
    """The clean model ranks better than popularity does: a model without skill has none to lose."""
    clean = [r.value for r in records if r.metric == metric and r.level == CLEAN and r.scope == UNIVERSAL]
    if not clean or metric not in popularity:
        return []
    better = clean[0] > popularity[metric] if bigger else clean[0] < popularity[metric]
    return [("", f"{metric} {clean[0]:.4f}, popularity {popularity[metric]:.4f}", "", better)]

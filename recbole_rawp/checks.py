"""Can the numbers be trusted?

Checks compare the attacked loss, never a ranking metric: a hardened model's metric may rise under attack. Where one
attack has several methods the strongest at each radius is what counts; a small delta lies in every larger ball too, so
its loss can only grow with the radius if the search is any good.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from recbole_rawp.attacks import ATTACKS
from recbole_rawp.evaluation import LOSS, Outcome, Record

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
SLACK = 1e-6  # by how much, relative, a loss may miss a bound: rounding of a sum over batches

Losses = dict[tuple[str, float], float]  # (method, radius) -> the attacked loss, of one threat


@dataclass(frozen=True)
class Check:
    """One self-check of one model: `status` is passed, failed or not applicable; `detail` says where it failed."""

    defense: str
    name: str
    status: str
    detail: str


def verify(outcome: Outcome, clean: Mapping[str, float] | None, *, decimals: int) -> list[Check]:
    """Check what `evaluation.under_attack` found about one model.

    Args:
        outcome: the attacks' records, and whether the scores follow the weights.
        clean: what RecBole's own evaluation of the same model said; None where its candidates are drawn anew.
        decimals: to which RecBole rounded it (`metric_decimal_place`).
    """
    records = outcome.records
    threats = by_threat(records)
    at_zero = {r["metric"]: r["value"] for r in records if r["radius"] == 0 and r["scope"] == "global"}
    tolerance = 0.5001 * 10.0**-decimals
    values = [(place(r, threats), r["attack"], r["radius"], math.isfinite(r["value"])) for r in records]
    equal = [("", metric, value, abs(at_zero[metric] - value) <= tolerance) for metric, value in (clean or {}).items()]
    follows = [("", name, "", False) for name in outcome.unmoved or ()] or [("", "", "", True)]
    cases = {
        "all values are finite": values,
        "the attack has a gradient": over(threats, has_gradient),
        "the attack raises the loss more than noise of the same norm": over(threats, beats_noise),
        "more steps are no weaker than one": over(threats, steps_help),
        "the loss grows with the radius": over(threats, grows),
        "scores follow the weights (no stale cache)": [] if outcome.unmoved is None else follows,
        "radius 0 equals RecBole's own evaluation": equal if at_zero else [],
    }
    return [conclude(outcome.model["defense"], name, found) for name, found in cases.items()]


Case = tuple[str, Any, Any, bool]  # threat, method, radius, whether it holds


def conclude(defense: str, name: str, cases: list[Case]) -> Check:
    """Return passed if every case holds; without a case the check does not apply."""
    broken = [" ".join(map(str, filter(None, case[:3]))) for case in cases if not case[3]]
    status = FAILED if broken else PASSED if cases else NOT_APPLICABLE
    return Check(defense, name, status, ", ".join(dict.fromkeys(broken)))


def by_threat(records: Iterable[Record]) -> dict[str, Losses]:
    """Return the attacked losses of each threat, by its name."""
    threats: dict[str, Losses] = {}
    for record in records:
        if record["metric"] == LOSS:
            threats.setdefault(threat_name(record), {})[record["attack"], record["radius"]] = record["value"]
    return threats


def threat_name(record: Record) -> str:
    """Return what moves in a record, within which ball, for whom."""
    absolute = "absolute" if record["unit"] == "absolute" else ""
    words = (record["target"], record["granularity"], absolute, record["scope"], record["labels"])
    return "/".join(filter(None, words))


def place(record: Record, threats: Mapping[str, Losses]) -> str:
    """Return the threat's name where there are several."""
    return threat_name(record) if len(threats) > 1 else ""


def over(threats: Mapping[str, Losses], test: Callable[[Losses], Iterable[tuple[Any, Any, bool]]]) -> list[Case]:
    """Return the cases of a test over all threats."""
    return [(name if len(threats) > 1 else "", *case) for name, losses in threats.items() for case in test(losses)]


def climbs(losses: Losses) -> list[tuple[str, float]]:
    """Return the attacked (method, radius) that follow a gradient."""
    return [(method, radius) for method, radius in losses if method != "random" and radius > 0]


def has_gradient(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """Each method changes the loss at all."""
    return [(method, radius, losses[method, radius] != losses[method, 0.0]) for method, radius in climbs(losses)]


def beats_noise(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """Each method is stronger than noise of the same norm."""
    cases = [(method, radius) for method, radius in climbs(losses) if ("random", radius) in losses]
    return [(method, radius, losses[method, radius] > losses["random", radius]) for method, radius in cases]


def steps_help(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """Each method that iterates is at least as strong as FGSM."""
    cases = [(m, radius) for m, radius in climbs(losses) if ATTACKS[m].iterates and ("fgsm", radius) in losses]
    return [(m, radius, at_least(losses[m, radius], losses["fgsm", radius])) for m, radius in cases]


def grows(losses: Losses) -> Iterable[tuple[Any, Any, bool]]:
    """The strongest method's loss at each radius is at least that at every smaller one."""
    strongest: dict[float, float] = {}
    for method, radius in climbs(losses):
        strongest[radius] = max(strongest.get(radius, -math.inf), losses[method, radius])
    radii = sorted(strongest)
    return [
        ("strongest method", radius, at_least(strongest[radius], strongest[before]))
        for before, radius in pairwise(radii)
    ]


def at_least(value: float, bound: float) -> bool:
    """Tell whether a loss reaches a bound, but for rounding; NaN does not."""
    return value >= bound - SLACK * abs(bound)

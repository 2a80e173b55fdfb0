"""Can the numbers be trusted?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_rawp.evaluation import LOSS, Record

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


@dataclass(frozen=True)
class Check:
    """One self-check of one model: `status` is passed, failed or not applicable; `detail` says where it failed."""

    defense: str
    name: str
    status: str
    detail: str


def verify(records: list[Record], clean: Mapping[str, float] | None, *, decimals: int) -> list[Check]:
    """Check the records of one model.

    Args:
        records: what `evaluation.under_attack` returned.
        clean: what RecBole's own evaluation of the same model said; None where its candidates are drawn anew.
        decimals: to which RecBole rounded it (`metric_decimal_place`).
    """
    loss = {(r["attack"], r["radius"]): r["value"] for r in records if r["metric"] == LOSS}
    climbs = [(attack, radius) for attack, radius in loss if attack != "random" and radius > 0]
    against_noise = [(attack, radius) for attack, radius in climbs if ("random", radius) in loss]
    in_steps = [(attack, radius) for attack, radius in climbs if attack == "bim" and ("fgsm", radius) in loss]
    at_zero = {r["metric"]: r["value"] for r in records if r["radius"] == 0}
    tolerance = 0.5001 * 10.0**-decimals

    def check(name: str, cases: list[Any], holds: Callable[..., bool]) -> Check:
        """Return passed if `holds(*case)` for every case; without a case the check does not apply."""
        broken = [case for case in cases if not holds(*case)]
        detail = ", ".join(dict.fromkeys(" ".join(map(str, case[:2])) for case in broken))
        status = FAILED if broken else PASSED if cases else NOT_APPLICABLE
        return Check(records[0]["defense"], name, status, detail)

    return [
        check(
            "all values are finite",
            [(r["attack"], r["radius"], r["value"]) for r in records],
            lambda attack, radius, value: math.isfinite(value),
        ),
        check("the attack has a gradient", climbs, lambda attack, radius: loss[attack, radius] != loss[attack, 0.0]),
        check(
            "the attack raises the loss more than noise of the same norm",
            against_noise,
            lambda attack, radius: loss[attack, radius] > loss["random", radius],
        ),
        check(
            "more steps are no weaker than one",
            in_steps,
            lambda attack, radius: loss[attack, radius] >= loss["fgsm", radius],
        ),
        check(
            "radius 0 equals RecBole's own evaluation",
            list((clean or {}).items()),
            lambda metric, value: abs(at_zero[metric] - value) <= tolerance,
        ),
    ]

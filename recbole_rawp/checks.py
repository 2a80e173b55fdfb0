"""Can the numbers be trusted?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from recbole_rawp.evaluation import LOSS, Record

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


@dataclass(frozen=True)
class Check:
    """One self-check of one model: `status` is passed, failed or not applicable; `detail` says what was seen."""

    defense: str
    name: str
    status: str
    detail: str


def verify(records: list[Record], clean: Mapping[str, float] | None) -> list[Check]:
    """Check the records of one model.

    Args:
        records: what `evaluation.under_attack` returned.
        clean: what RecBole's own evaluation of the same model said; None where its candidates are drawn anew.
    """
    loss = {(r["attack"], r["radius"]): r["value"] for r in records if r["metric"] == LOSS}
    radii = sorted({radius for _, radius in loss if radius > 0})
    at_zero = {r["metric"]: r["value"] for r in records if r["radius"] == 0 and r["metric"] != LOSS}
    unusable = sorted({f"{r['attack']} {r['radius']:g}" for r in records if not math.isfinite(r["value"])})
    unmoved = [radius for radius in radii if loss["fgsm", radius] == loss["fgsm", 0.0]]
    weak = [radius for radius in radii if not loss["fgsm", radius] > loss["random", radius]]
    different = [m for m, v in (clean or {}).items() if abs(at_zero[m] - v) > 0.5001 * 10 ** -_decimals(clean)]
    found = [
        ("all values are finite", unusable, "not finite at", True),
        ("the attack has a gradient", unmoved, "loss unchanged at radius", bool(radii)),
        (
            "the attack raises the loss more than noise of the same norm",
            weak,
            "no more than noise at radius",
            bool(radii),
        ),
        ("radius 0 equals RecBole's own evaluation", different, "differs in", clean is not None),
    ]
    defense = records[0]["defense"]
    return [
        Check(
            defense,
            name,
            NOT_APPLICABLE if not applies else FAILED if bad else PASSED,
            f"{what} {', '.join(map(str, bad))}" if applies and bad else "",
        )
        for name, bad, what, applies in found
    ]


def _decimals(values: Mapping[str, float] | None) -> int:
    """Return how many decimals RecBole kept, as far as the values show; at least 1."""
    texts = [repr(float(value)) for value in (values or {}).values()]
    return max((len(text.partition(".")[2]) for text in texts if "e" not in text), default=1)

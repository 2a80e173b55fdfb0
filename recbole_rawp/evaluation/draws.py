"""Puts several draws of a random variant together: the one in the middle, the worst, and how many are lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from recbole_rawp.evaluation.kept import HALF, kept
from recbole_rawp.host.ranking.measurement import Measurement
from recbole_rawp.threats.setting import CLEAN
from recbole_rawp.threats.threat import Threat


def drawn(found: Iterable[Measurement], threat: Threat, trainer: Any, notes: list[str]) -> Iterator[Measurement]:
    """Yield of the draws of each variant and level the one in the middle, and the worst as a variant of its own.

    By the valid metric, the upper middle of an even number. All values are noted, and how often the ranking was lost.
    """
    metric, bigger = trainer.valid_metric, bool(trainer.valid_metric_bigger)
    clean = math.nan
    for (variant, level), group in groupby(found, lambda one: (one.variant, one.level)):
        draws = sorted(group, key=lambda one: goodness(one.measured.metrics.get(metric, 0.0), bigger))
        yield draws[len(draws) // 2]
        yield replace(draws[0], variant=f"{variant}_worst")
        values = [one.measured.metrics.get(metric, math.nan) for one in draws]
        if level == CLEAN:
            clean = values[0]
            continue
        lost = sum(not kept(value, clean, metric, bigger=bigger) >= HALF for value in values)
        told = " ".join(f"{value:.4f}" for value in values)
        what = f"{variant} on {threat.setting.what} at {level:g}"
        notes.append(f"{what}: lost in {lost} of {len(values)} draws; {metric} of each: {told}.")


def goodness(value: float, bigger: bool) -> float:
    """Return a metric as draws are sorted by, the worst first; NaN is worse than any."""
    return -math.inf if math.isnan(value) else value if bigger else -value

"""Puts several draws of a random variant together: the one in the middle, the worst, and how many are lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from recbole_rawp.evaluation.records import HALF, kept
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
        what = f"{variant} on {threat.setting.what} at {level:g}"
        told = " ".join(f"{value:.4f}" for value in values)
        notes.append(f"{what}: {lost(values, clean, metric, bigger)}{metric} of each draw: {told}.")


def lost(values: list[float], clean: float, metric: str, bigger: bool) -> str:
    """Say in how many draws less than half is left; nothing of a clean model that ranks no better than chance."""
    if math.isnan(kept(clean, clean, metric, bigger=bigger)):
        return ""
    count = sum(not kept(value, clean, metric, bigger=bigger) >= HALF for value in values)
    return f"lost in {count} of {len(values)} draws; "


def goodness(value: float, bigger: bool) -> float:
    """Return a metric as draws are sorted by, the worst first; NaN is worse than any."""
    return -math.inf if math.isnan(value) else value if bigger else -value

"""Says what share of a clean score is left, counted from what a random ranking has."""

from __future__ import annotations

import math

CHANCE = {"auc": 0.5, "gauc": 0.5}  # what a random ranking scores, where that is far from 0
HALF = 0.5  # of the score: a ranking that keeps less is lost


def chance(metric: str) -> float:
    """Return what a random ranking scores."""
    return CHANCE.get(metric.partition("@")[0].lower(), 0.0)


def kept(value: float, clean: float, metric: str, *, bigger: bool) -> float:
    """Return the share that is left of one score, as `report.scores.shares` does of tables; NaN if it means nothing."""
    if not bigger:
        return clean / value if value > 0 else math.nan
    left, whole = value - chance(metric), clean - chance(metric)
    return left / whole if whole > 0 else math.nan

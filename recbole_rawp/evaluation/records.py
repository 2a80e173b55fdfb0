"""Records, one measured value each with all that says of what; the share of a score that is left; and checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"
CHANCE = {"auc": 0.5, "gauc": 0.5}  # what a random ranking scores, where that is far from 0
HALF = 0.5  # of the score: a ranking that keeps less is lost
LOSS = "loss"  # the metric name of what attacks raise; of these records `loss` says which it is


@dataclass(frozen=True)
class Subject:
    """What was measured: a model, as a defense left it, on a split of a data set."""

    model: str
    dataset: str
    defense: str
    stage: int
    seed: int
    split: str


@dataclass(frozen=True)
class Condition(Subject):
    """A subject under a threat at one level.

    Attributes:
        threat: the variant: `fgsm`, `bf16`.
        target, granularity, unit, scope, labels: see `threats.setting.Setting`.
        loss: the one that it climbs, `training` or `ranking`; empty if none.
        steps: of attacks that iterate, else 1.
        level: in `unit`; 0 is the model as it is.
    """

    threat: str
    target: str
    granularity: str
    unit: str
    scope: str
    labels: str
    loss: str
    steps: int
    level: float


@dataclass(frozen=True)
class Record(Condition):
    """One value, unrounded, of one metric."""

    metric: str
    value: float


COLUMNS = [field.name for field in fields(Record)]


@dataclass(frozen=True)
class Check:
    """One self-check of one model: `status` is passed, failed or not applicable; `detail` says where it failed."""

    defense: str
    name: str
    status: str
    detail: str


def chance(metric: str) -> float:
    """Return what a random ranking scores."""
    return CHANCE.get(metric.partition("@")[0].lower(), 0.0)


def kept(value: float, clean: float, metric: str, *, bigger: bool) -> float:
    """Return the share that is left of one score, as `report.scores.shares` does of tables; NaN if it means nothing."""
    if not bigger:
        return clean / value if value > 0 else math.nan
    left, whole = value - chance(metric), clean - chance(metric)
    return left / whole if whole > 0 else math.nan

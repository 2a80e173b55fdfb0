"""Finds the largest perturbation that the clean score does not pay for, rawp_radius auto: a ramp from the plain model.

First the model is trained plainly, as RecBole trains it; p is its best valid score. Hardening goes on from there, with
the weights and the optimizer of that best epoch, at a small radius. After each epoch

    score >= (1 - budget) * p:  kept;     radius *= growth
    otherwise:                  refused;  weights and optimizer go back to those kept last, growth = sqrt(growth),
                                          radius = growth * the radius kept last (none yet: radius / 4)

The result is the model kept last. Where none was kept it is the refused one with the best score, and the run says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.config.settings import START
from recbole_rawp.host.ranking.scores import limit

GROWTH = 2.0
FEWEST, SHARE = 8, 0.25  # epochs: so many at least, else this share of the plain ones


@dataclass
class Validation:
    """A row of the ramp's path.

    Attributes:
        epoch, radius: of the training that was validated; epochs go on from the plain ones.
        score: its valid score.
        passed: whether it keeps the budget: training goes on from it.
        chosen: whether its model is the result so far.
    """

    epoch: int
    radius: float
    score: float
    passed: bool
    chosen: bool = False


@dataclass
class RadiusSearch:
    """The state of the ramp: numbers, and the states of training that it goes back to.

    Attributes:
        budget: share of the plain model's valid score that may be lost.
        bigger: whether a higher score is better.
        largest: radius that is never passed.
        radius, growth: of the training that comes next, and of the step after it.
        plain: the plain model's valid scores.
        trained_plainly: whether they are complete.
        limits: what the ramp changed of RecBole's loop, as it was before.
        perturbed: whether something was perturbed since the last validation.
        start: the state before the plain training, until that is over.
        kept: the state of model and optimizers that is gone back to: the plain model's best, then those kept.
        path: a row for each validation of the ramp.
        result: RecBole's valid result of the chosen model.
    """

    budget: float
    bigger: bool
    largest: float
    radius: float = START
    growth: float = GROWTH
    plain: list[float] = field(default_factory=list)
    trained_plainly: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    perturbed: bool = False
    start: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    path: list[Validation] = field(default_factory=list)
    result: dict[str, float] | None = None

    @property
    def measure(self) -> float:
        """The plain model's best valid score; NaN is none."""
        scores = [score for score in self.plain if not math.isnan(score)]
        return max(scores) if self.bigger else min(scores)

    @property
    def needed(self) -> float:
        """The score that keeps the budget."""
        return limit(self.measure, 1 - self.budget, bigger=self.bigger)

    @property
    def chosen(self) -> Validation | None:
        """The row of the model that is the result so far."""
        return next((row for row in self.path if row.chosen), None)

    def decide(self, epoch: int, score: float) -> Validation:
        """Judge the model that was trained at `radius` until `epoch`, and set the next radius; return its row."""
        now = Validation(epoch, self.radius, score, self._reaches(score, self.needed))
        before = self.chosen
        self.path.append(now)
        if before is None or now.passed or (not before.passed and self._reaches(score, before.score)):
            for row in self.path:
                row.chosen = row is now
        if not now.passed:
            self.growth **= 0.5
        kept = [row.radius for row in self.path if row.passed]
        self.radius = min(self.largest, kept[-1] * self.growth) if kept else self.radius / 4
        return now

    def _reaches(self, score: float, needed: float) -> bool:
        """Tell whether a score is as good as another; NaN never is, and any other is as good as NaN."""
        if math.isnan(score) or math.isnan(needed):
            return not math.isnan(score)
        return score >= needed if self.bigger else score <= needed


def epochs_after(plain: int) -> int:
    """Return how many epochs a ramp has after so many plain ones."""
    return max(FEWEST, round(SHARE * plain))

"""Searches for the largest perturbation that the clean score does not pay for: rawp_radius auto.

First the model is trained plainly, as RecBole trains it; p_k is its k-th valid score. Then it is trained anew from the
same start, and after each validation

    needed_k = (1 - budget) * min_{k^2 / n <= j <= best} median(p_{j-1}, p_j, p_{j+1})  (at the ends the lesser of two)
    score >= needed_k:   the k-th validation is passed;  radius *= factor
    the first refused:   training goes on as it is
    the next refused:    radius /= factor;  weights and optimizer go back to the last ones kept

where a refused one whose score grew does not wait, and is kept: only its radius falls. n is the number of plain scores,
and best that of the highest median; j is at most best. A hardened model learns more slowly, and catches up in the end;
and where the plain model's own score dips, it may dip, too. Masks differ from epoch to epoch, so that a first refusal
may be chance, or a shock from which the next epoch recovers. Once a radius fell, the factor goes to its square root at
each turn, down to 2^(1/4), and squares again, up to 4, where three decisions in a row agree. A lucky score does not
choose the model. What speaks of a radius are the validations at it, those at a larger one that kept (1 - budget) of the
plain model's best, and those at a smaller one that did not; what counts is

    confirmed = min(score, median of the last three scores that speak of its radius, of two the lesser; alone: -inf)

The model is the passed one with the largest radius among those whose confirmed score keeps (1 - budget) of the plain
model's best, and at equal radius the one confirmed best; while none does, the one confirmed best.

Weights that were moved too far at first may never catch up, however small the radius is then. So where the first
radius, the smallest, was refused three times in a row, or RecBole's patience would end the training, and nothing keeps
the budget, training begins anew from the same start, and no radius passes a quarter of the largest one tried.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.config.settings import START
from recbole_rawp.host.ranking.scores import limit

COARSE, FINE = 4.0, 2**0.25


@dataclass
class Validation:
    """A row of the search's path.

    Attributes:
        attempt, epoch, radius: of the training that was validated.
        score, confirmed, needed: its valid score, what of it others confirm, and what passes.
        passed, kept, waits: whether it did, training goes on from it, or the next one tells.
        chosen: whether its model is the result so far.
    """

    attempt: int
    epoch: int
    radius: float
    score: float
    confirmed: float
    needed: float
    passed: bool
    kept: bool
    waits: bool
    chosen: bool = False


@dataclass
class RadiusSearch:
    """The state of the search: numbers, and the states of training that it goes back to.

    Attributes:
        budget: share of the plain model's valid score that may be lost.
        bigger: whether a higher score is better.
        largest: radius that is never passed.
        radius, factor: of the training that comes next, and of the step after it.
        attempt: how often training began from the start.
        plain: the plain model's valid scores.
        trained_plainly: whether they are complete.
        warmed: validations of this attempt after plain epochs, of the warm-up or of empty masks, passed unseen.
        warm_start: those of them before its first perturbation.
        perturbed: whether something was perturbed since the last validation.
        start: the state before the first epoch, of model, optimizers, loaders and generators; after a warm-up, that of
            model and optimizers then.
        kept: the state of model and optimizers that is gone back to, and `kept_score`, its score.
        path: a row for each validation.
        result: RecBole's valid result of the chosen model.
    """

    budget: float
    bigger: bool
    largest: float
    radius: float = START
    factor: float = COARSE
    attempt: int = 1
    plain: list[float] = field(default_factory=list)
    trained_plainly: bool = False
    warmed: int = 0
    warm_start: int = 0
    perturbed: bool = False
    start: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    kept_score: float | None = None
    path: list[Validation] = field(default_factory=list)
    result: dict[str, float] | None = None

    def needed(self, k: int | None = None) -> float:
        """Return the score to be kept at the k-th validation, counted from 1; None: by the result."""
        return limit(self.measure(k), 1 - self.budget, bigger=self.bigger)

    def measure(self, k: int | None = None) -> float:
        """Return what the plain model kept from the score beside the k-th validation on, up to its best one."""
        best, worst = (max, min) if self.bigger else (min, max)
        smooth = smoothed(self.plain, bigger=self.bigger)
        top = smooth.index(best(smooth))
        return worst(smooth[top if k is None else min(top, math.ceil(k**2 / len(smooth)) - 1) : top + 1])

    def decide(self, epoch: int, score: float) -> bool:
        """Judge the model that was trained at `radius` until `epoch`, set the next radius; tell whether to keep it.

        What is not kept and does not wait goes back.
        """
        needed = self.needed(1 + self.warmed + sum(row.passed for row in self.rows))
        passed = self._reaches(score, needed)
        kept = passed or (self.kept_score is not None and self._reaches(score, self.kept_score))
        sure = confirmed([*(row.score for row in self.rows if self._speaks(row)), score], bigger=self.bigger)
        waits = not kept and not math.isnan(score) and all(row.kept for row in self.rows[-1:])
        now = Validation(self.attempt, epoch, self.radius, score, sure, needed, passed, kept, waits)
        self.path.append(now)
        if kept:
            self.kept_score = score
        if passed and self._preferred(now):
            for row in self.path:
                row.chosen = row is now
        if not waits:
            self._turn()
            radius = self.radius * self.factor if passed else self.radius / self.factor
            self.radius = min(self.largest, max(START, radius))
        return kept

    def gives_up(self, *, impatient: bool) -> bool:
        """Tell whether training is to begin anew: over the budget, at the smallest radius or out of patience."""
        if not self.rows or (self.chosen is not None and self.within_budget(self.chosen)):
            return False
        last = self.rows[-3:]
        smallest = len(last) == 3 and not any(row.passed or row.radius > START for row in last)
        return (smallest or impatient) and self._quarter() >= START

    def begin_anew(self) -> None:
        """Take the start for the next attempt; its radii are smaller."""
        self.largest = self._quarter()
        self.radius, self.factor, self.attempt = START, COARSE, self.attempt + 1
        self.warmed, self.kept, self.kept_score = self.warm_start, None, None

    def _quarter(self) -> float:
        return max(row.radius for row in self.rows) / 4

    @property
    def rows(self) -> list[Validation]:
        """Those of the path that belong to this attempt."""
        return [row for row in self.path if row.attempt == self.attempt]

    @property
    def chosen(self) -> Validation | None:
        """The row of the model that is the result so far; None before the first that passed."""
        return next((row for row in self.path if row.chosen), None)

    def within_budget(self, row: Validation) -> bool:
        """Tell whether a row of the path keeps enough of the plain model's best, and not by luck alone."""
        return self._reaches(row.confirmed, self.needed())

    def _reaches(self, score: float, needed: float) -> bool:
        return score >= needed if self.bigger else score <= needed

    def borne_out(self) -> str:
        """Say how far other validations confirm the chosen one."""
        assert self.chosen is not None
        sure = self.chosen.confirmed
        return f"{sure:.4f} confirmed by others" if math.isfinite(sure) else "confirmed by no other"

    def _speaks(self, row: Validation) -> bool:
        """Tell whether a row speaks of the radius: one at it, or at a larger one within the budget, or the reverse."""
        if math.isclose(row.radius, self.radius):
            return True
        return bool((row.radius > self.radius) == self._reaches(row.score, self.needed()))

    def _preferred(self, row: Validation) -> bool:
        """Tell whether a row that passed is to be chosen instead of the one that is."""
        before = self.chosen
        if before is None:
            return True
        new, old = (self.within_budget(one) for one in (row, before))
        if new != old:
            return new
        if new and not math.isclose(row.radius, before.radius):
            return bool(row.radius > before.radius)
        return self._reaches(row.confirmed, before.confirmed)

    def _turn(self) -> None:
        """Make the factor finer where the decision turned, coarser where three agree."""
        decisions = [row.passed for row in self.rows if not row.waits]
        if all(decisions):
            return
        last = decisions[-3:]
        if len(last) > 1 and last[-1] != last[-2]:
            self.factor = max(FINE, self.factor**0.5)
        elif len(last) == 3 and last[0] == last[1] == last[2]:
            self.factor = min(COARSE, self.factor**2)


def smoothed(scores: list[float], *, bigger: bool) -> list[float]:
    """Return each score's median with its two neighbours, at the ends the worse of two: luck does not count."""
    worse = min if bigger else max
    ends = {0, len(scores) - 1}
    windows = [scores[max(0, k - 1) : k + 2] for k in range(len(scores))]
    return [worse(near) if k in ends else statistics.median(near) for k, near in enumerate(windows)]


def confirmed(scores: list[float], *, bigger: bool) -> float:
    """Return the last score, or the median of the last three, of two the worse, if that is worse; alone the worst."""
    worse, worst = (min, -math.inf) if bigger else (max, math.inf)
    near = [worst if math.isnan(score) else score for score in [worst, worst, *scores][-3:]]
    return worse(near[-1], statistics.median(near))

"""Finds the largest perturbation that the clean score does not pay for, rawp_radius auto: a ramp from the plain model.

First the model is trained plainly, as RecBole trains it. p is the mean of its best valid score and of the four after it
(trained for it, where training ended before): the best of many noisy scores alone is more than the model is worth.
Hardening goes on with the weights and the optimizer of that best epoch.

It begins with a jump to a large radius, which costs some models much at first and nothing in the end, where a small
radius never leads. Every four epochs: would the score be back before the end, at half the pace of these four? The pace
is what the best of the four gained over the best of the four before. If not, all goes back to the plain model, and to a
small radius. After each other epoch

    score >= (1 - budget) * p:  kept;     radius *= growth
    otherwise:                  refused;  growth = max(sqrt(growth), 1.1), radius /= growth^2
                                          refused twice running, or NaN: weights and optimizer go back to the last kept
                                          none kept yet: they go back to the plain model's, radius / 4

The result is the model kept at the largest radius. Where none was kept it is the refused one with the best score, and
the run says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.config.schema import START
from recbole_rawp.host.ranking.scores import limit

JUMP, CHECKED, PACE = 0.3, 4, 0.5  # radius; epochs between two looks at it; of the pace, for it falls
GROWTH, SLOWEST = 2.0, 1.1
AFTER = 4  # valid scores after the plain model's best that count as its own
FIRST = 8  # epochs for a jump that fails
FEWEST, SHARE = 12, 0.3  # epochs of the ramp: so many at least, else this share of the plain ones


@dataclass
class Validation:
    """A row of the ramp's path.

    Attributes:
        epoch, radius: of the training that was validated; epochs go on from the plain ones.
        score: its valid score.
        passed: whether it keeps the budget.
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
        small: the radius after a jump that failed.
        jumping: whether the radius is that of the jump, and the score not there yet.
        total: epochs of jump and ramp together.
        plain: the plain model's valid scores.
        best: the place of its best among them; None while it is trained.
        trained_plainly: whether they are complete.
        limits: what the ramp changed of RecBole's loop, as it was before.
        perturbed: whether something was perturbed since the last validation.
        diverged: whether the loss became NaN in the epoch at hand.
        goes_back: whether the last epoch is undone.
        start: the state before the plain training, until that is over.
        kept: the state of model and optimizers that is gone back to: the plain model's best, then those kept.
        path: a row for each validation of the ramp.
        result: RecBole's valid result of the chosen model.
        gave_up: whether the plain model was kept, for no radius kept the budget.
    """

    budget: float
    bigger: bool
    largest: float
    radius: float = START
    growth: float = GROWTH
    small: float = START
    jumping: bool = False
    total: int = 0
    plain: list[float] = field(default_factory=list)
    best: int | None = None
    trained_plainly: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    perturbed: bool = False
    diverged: bool = False
    goes_back: bool = False
    start: dict[str, Any] | None = None
    kept: dict[str, Any] | None = None
    path: list[Validation] = field(default_factory=list)
    result: dict[str, float] | None = None
    gave_up: bool = False

    @property
    def measure(self) -> float:
        """The plain model's valid score: the mean of the best and those after it; NaN is none."""
        first = self._best() if self.best is None else self.best
        scores = [score for score in self.plain[first : first + 1 + AFTER] if not math.isnan(score)]
        return sum(scores) / len(scores)

    @property
    def needed(self) -> float:
        """The score that keeps the budget."""
        return limit(self.measure, 1 - self.budget, bigger=self.bigger)

    @property
    def chosen(self) -> Validation | None:
        """The row of the model that is the result so far."""
        return next((row for row in self.path if row.chosen), None)

    def settle(self) -> None:
        """Let the plain training be over."""
        self.best = self._best()

    @property
    def settling(self) -> int:
        """How many plain epochs are still to do for the scores after the best."""
        return 0 if self.best is None else max(0, self.best + 1 + AFTER - len(self.plain))

    def _best(self) -> int:
        """Return the place of the plain model's best score, the first of equals; NaN is none."""
        sign = -1 if self.bigger else 1
        return min(range(len(self.plain)), key=lambda i: (math.isnan(self.plain[i]), sign * self.plain[i]))

    def decide(self, epoch: int, score: float) -> Validation:
        """Judge the model that was trained at `radius` until `epoch`, and set the next radius; return its row."""
        now = Validation(epoch, self.radius, score, self._reaches(score, self.needed))
        kept, before = any(row.passed for row in self.path), self.chosen
        self.goes_back = not now.passed and (not kept or not self.path[-1].passed or math.isnan(score))
        self.path.append(now)
        recovers = self.jumping and not now.passed and self._recovers()
        if before is None or self._better(now, before):
            for row in self.path:
                row.chosen = row is now
        if recovers:
            self.goes_back = False
        elif now.passed:
            self.radius, self.jumping = min(self.largest, self.radius * self.growth), False
        elif self.jumping:
            self.radius, self.jumping = self.small, False
        else:
            self.growth = max(self.growth**0.5, SLOWEST)
            self.radius /= self.growth**2 if kept else 4
        return now

    def _recovers(self) -> bool:
        """Tell whether a jump may go on: at half its pace the score is back before the epochs are over."""
        sign, left = 1 if self.bigger else -1, self.total - len(self.path)
        scores = [sign * row.score for row in self.path]
        if math.isnan(scores[-1]) or len(scores) % CHECKED:
            return not math.isnan(scores[-1])
        best, before = max(scores[-CHECKED:]), scores[-2 * CHECKED : -CHECKED]
        gained = (best - max(before)) / CHECKED if before else (best - scores[0]) / (CHECKED - 1)
        return best + PACE * gained * left >= sign * self.needed

    def _better(self, one: Validation, other: Validation) -> bool:
        """Tell whether a row makes a better result than one before it."""
        if one.passed and other.passed:
            return one.radius >= other.radius
        return one.passed or (not other.passed and self._reaches(one.score, other.score))

    def _reaches(self, score: float, needed: float) -> bool:
        """Tell whether a score is as good as another; NaN never is, and any other is as good as NaN."""
        if math.isnan(score) or math.isnan(needed):
            return not math.isnan(score)
        return score >= needed if self.bigger else score <= needed


def epochs_after(plain: int) -> int:
    """Return how many epochs jump and ramp have after so many plain ones."""
    return FIRST + max(FEWEST, round(SHARE * plain))

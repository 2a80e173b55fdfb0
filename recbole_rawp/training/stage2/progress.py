"""Notes how far stage 2 has come and what it saw, and says it in words."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from recbole_rawp.training.stage2.criticality import ModuleCriticality
    from recbole_rawp.training.stage2.interpolation import Mixture
    from recbole_rawp.training.stage2.tuning import TunedEpoch

BLIND = 0.05  # share of the clean score below which robust scores tell nothing apart


@dataclass
class Progress:
    """How far stage 2 has come and what it has seen: tensors, numbers and strings, so that a run can go on from it.

    Attributes:
        round, epoch: what comes next, counted from 0; epochs within the round.
        start_epoch: number of the first epoch of stage 2 for logs and for trainers that alternate by epoch.
        clean, robust: stage 1's valid scores, once `started`.
        chosen: the parameters under repair; empty between rounds.
        before, best: their values at the round's start, and at its best epoch.
        derived: buffers and frozen parameters at the round's start.
        original: the values of all parameters repaired so far, before stage 2.
        best_score, best_epoch: robust valid score of that epoch, and its number, from 1; 0 is before tuning.
        optimizer: state of the round's optimizer.
        ranking, epochs, sweep: rows for the report, each with its round; an epoch that diverged has a loss of NaN.
        seconds: time spent on ranking, tuning and sweeping.
    """

    start_epoch: int
    round: int = 0
    epoch: int = 0
    started: bool = False
    clean: float = float("nan")
    robust: float = float("nan")
    chosen: list[str] = field(default_factory=list)
    before: dict[str, torch.Tensor] = field(default_factory=dict)
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    derived: dict[str, torch.Tensor] = field(default_factory=dict)
    original: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float | None = None
    best_epoch: int = 0
    optimizer: dict[str, Any] | None = None
    ranking: list[ModuleCriticality] = field(default_factory=list)
    epochs: list[TunedEpoch] = field(default_factory=list)
    sweep: list[Mixture] = field(default_factory=list)
    seconds: float = 0.0

    def end_round(self) -> None:
        """Forget what only the round that is over needed."""
        self.round, self.epoch, self.best_epoch, self.chosen = self.round + 1, 0, 0, []
        self.before, self.best, self.derived, self.best_score, self.optimizer = {}, {}, {}, None, None

    def changed(self) -> bool:
        """Tell whether a repair was worth keeping."""
        return any(row.chosen and row.alpha > 0 for row in self.sweep)

    def now(self) -> tuple[float, float]:
        """Return the clean and robust valid scores of the model as repaired so far."""
        chosen = [row for row in self.sweep if row.chosen]
        return (chosen[-1].clean, chosen[-1].robust) if chosen else (self.clean, self.robust)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time spent inside to `seconds`."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def summary(progress: Progress, metric: str) -> list[str]:
    """Return in words what stage 2 ranked and chose, a line for each round."""
    lines = []
    for round_ in range(progress.round):
        ranking = [row for row in progress.ranking if row.round == round_]
        sweep = [row for row in progress.sweep if row.round == round_]
        order = ", ".join(f"{row.module} {row.rise:.3g}" for row in ranking)
        repaired = ", ".join(row.module for row in ranking if row.repaired)
        chosen = next(row for row in sweep if row.chosen)
        lines.append(
            f"Stage 2, round {round_ + 1}: loss rise {order}. Repaired {repaired}: alpha {chosen.alpha:g}, valid "
            f"{metric} {sweep[0].clean:.4f} -> {chosen.clean:.4f}, under attack {sweep[0].robust:.4f} -> "
            f"{chosen.robust:.4f}.{advice(progress, round_)}"
        )
    return lines


def advice(progress: Progress, round_: int) -> str:
    """Return, with a space before it, what to change where a round diverged, or had next to nothing to choose by."""
    epochs = [row for row in progress.epochs if row.round == round_]
    sweep = [row for row in progress.sweep if row.round == round_]
    if epochs and math.isnan(epochs[-1].loss):
        end = epochs[-1].epoch
        return f" Its training diverged in epoch {end}: try a smaller ft_learning_rate, or ft_learner: adam."
    if not max(row.robust for row in sweep) <= BLIND * sweep[0].clean:  # NaN is another matter
        return ""
    return (
        f" At every alpha the attack leaves less than {BLIND:.0%} of the clean score, next to nothing to choose by: "
        "try a smaller ft_radius."
    )

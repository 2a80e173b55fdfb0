"""Scores a model on valid data, clean and under the attack by which stage 2 chooses, and compares scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from recbole_rawp.core.ascent import ascend
from recbole_rawp.core.attack_loss import AttackLoss
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.quirks import training_loss
from recbole_rawp.host.ranking.measurement import measuring, ranked, ranked_at
from recbole_rawp.host.ranking.scores import limit

if TYPE_CHECKING:
    from recbole_rawp.config.settings import FineTuning
    from recbole_rawp.core.ball import Weights


class ValidScores:
    """Scores the model as it is now on valid data: clean, and under the attack by which stage 2 chooses."""

    def __init__(self, trainer: Any, train_data: Any, valid_data: Any, weights: Weights, settings: FineTuning) -> None:
        self.trainer, self.train_data, self.valid_data = trainer, train_data, valid_data
        self.weights, self.settings = weights, settings
        self.batches = fixed_batches(train_data, settings.criticality.batches, trainer.device)

    def clean(self) -> float:
        """Return the valid metric, unrounded."""
        return self.clean_metrics()[self.trainer.valid_metric]

    def robust(self) -> float:
        """Return the valid metric at the worst change of the weights within the ball that stage 2 trains in."""
        return self.robust_metrics()[self.trainer.valid_metric]

    def clean_metrics(self) -> dict[str, float]:
        """Return every metric, unrounded."""
        with measuring(self.trainer, self.train_data, self.valid_data):
            return ranked(self.trainer, self.valid_data).metrics

    def robust_metrics(self) -> dict[str, float]:
        """Return every metric at that change, on the same candidates.

        The ball is that of the recipe, of its granularity, too; after hardened activations (`rat`) it is around the
        hidden weights, which stage 2 moves instead, as far as the recipe's granularity says of weights.
        """
        recipe, steps = self.settings.recipe, self.settings.attack_steps
        with measuring(self.trainer, self.train_data, self.valid_data):
            loss = AttackLoss(self.trainer.model, training_loss(self.trainer.model), self.batches, self.weights)
            bound = loss.ball(recipe.radius, granularity=recipe.granularity, relative=recipe.relative)
            delta = ascend(loss.gradient, self.weights, bound, steps=steps, generator=torch.Generator())
            if not any(change.any() for change in delta.values()):
                self.trainer.logger.warning("Stage 2: the attack has no gradient; its robust score is the clean one.")
            return ranked_at(self.trainer, self.valid_data, loss, delta).metrics

    def better(self, score: float, than: float | None) -> bool:
        """Tell whether a score beats another; NaN beats nothing."""
        if than is None:
            return score == score
        return score > than if self.trainer.valid_metric_bigger else score < than

    def keeps(self, score: float, of: float) -> bool:
        """Tell whether a clean score stays within the tolerance of stage 1's."""
        bigger = self.trainer.valid_metric_bigger
        bound = limit(of, self.settings.clean_tolerance, bigger=bigger)
        return score >= bound if bigger else score <= bound

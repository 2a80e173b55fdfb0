"""Scores a model on valid data, clean and under the attack by which stage 2 chooses, and compares scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from recbole_rawp.core.losses.attack_loss import AttackLoss, Source
from recbole_rawp.errors import InputError
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.ranking.measurement import measuring, ranked, ranked_at
from recbole_rawp.host.ranking.ranking_loss import ranking_source
from recbole_rawp.host.ranking.scores import limit
from recbole_rawp.threats.adversarial.method import METHODS
from recbole_rawp.threats.adversarial.search import universal
from recbole_rawp.threats.setting import TRAINING
from recbole_rawp.training.seams.training_loss import loss_of

if TYPE_CHECKING:
    from recbole_rawp.config.settings import FineTuning
    from recbole_rawp.core.ball import Weights


class ValidScores:
    """Scores the model as it is now on valid data: clean, and under the attack by which stage 2 chooses.

    That attack climbs the training loss and the ranking, each by itself; what leaves less of the ranking of
    `attack_users` counts, and is measured once.
    """

    def __init__(self, trainer: Any, train_data: Any, valid_data: Any, weights: Weights, settings: FineTuning) -> None:
        self.trainer, self.train_data, self.valid_data = trainer, train_data, valid_data
        self.weights, self.settings = weights, settings
        batches = fixed_batches(train_data, settings.criticality.batches, trainer.device)
        self.training = Source(TRAINING, (loss_of(trainer, train_data),), batches)
        self.told = False

    def ranking(self) -> Source | None:
        """Return the ranking loss around the model as it is now; None if it has none, with a warning."""
        settings = self.settings
        try:
            return ranking_source(
                self.trainer,
                self.train_data,
                self.valid_data,
                users=settings.attack_users,
                negatives=settings.attack_negatives,
            )
        except InputError as error:
            if not self.told:
                self.trainer.logger.warning(f"The attack that chooses climbs the training loss alone: {error}")
            self.told = True
            return None

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
        with measuring(self.trainer, self.train_data, self.valid_data):
            loss, delta = self.worst()
            if not any(change.any() for change in delta.values()):
                self.trainer.logger.warning("Stage 2: the attack has no gradient; its robust score is the clean one.")
            return ranked_at(self.trainer, self.valid_data, loss, delta).metrics

    def worst(self) -> tuple[AttackLoss, Weights]:
        """Return the change that leaves least of the ranking, of those that each loss leads to. Within `measuring`."""
        recipe, steps = self.settings.recipe, self.settings.attack_steps
        method = METHODS["fgsm" if steps == 1 else "apgd"]
        found = []
        for source in filter(None, (self.training, self.ranking())):
            loss = AttackLoss(self.trainer.model, source, self.weights)
            bound = loss.ball(recipe.radius, granularity=recipe.granularity, relative=recipe.relative)
            found.append((loss, method.search(universal(loss), bound, steps=steps, generator=torch.Generator()).delta))
        judge = found[-1][0]  # the ranking, where there is one
        values = [judge.value(delta) for _, delta in found] if len(found) > 1 else [0.0]
        return found[max(range(len(found)), key=lambda number: nan_low(values[number]))]

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


def nan_low(value: float) -> float:
    """Return a loss as it is compared: NaN is the lowest."""
    return -math.inf if math.isnan(value) else value

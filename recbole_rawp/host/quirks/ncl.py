"""NCL: it clusters its embeddings, and its trainer drops the last part of the loss at first."""

from __future__ import annotations

from typing import Any

import torch

from recbole_rawp.errors import InputError
from recbole_rawp.host.quirks.registry import Loss, Quirk, register


@register
class Clusters(Quirk):
    """Clusters are in no checkpoint, and there cannot be more than points."""

    def fits(self, model: Any) -> bool:
        """Tell whether the model clusters its embeddings."""
        return hasattr(model, "e_step") or hasattr(model, "run_kmeans")

    def after_load(self, model: Any) -> None:
        """Cluster, as at the start of an epoch."""
        if hasattr(model, "e_step"):
            model.e_step()

    def check(self, model: Any) -> None:
        """Raise InputError for more clusters than points."""
        points = min(getattr(model, "n_users", 0), getattr(model, "n_items", 0))
        if hasattr(model, "run_kmeans") and model.k > points:
            raise InputError(
                f"num_clusters: {model.k}, but there are {points} users or items. Choose {points} at most."
            )

    def counted(self, trainer: Any, loss: Loss, epoch: int) -> Loss:
        """Return the loss with 0 for its last part while the trainer drops that."""
        from recbole.trainer.trainer import NCLTrainer  # settings are read without RecBole's trainers

        if not isinstance(trainer, NCLTrainer) or epoch >= trainer.config["warm_up_step"]:
            return loss

        def without_last(batch: Any) -> Any:
            """Return as many parts as the model does."""
            parts = loss(batch)
            return (*parts[:-1], torch.zeros_like(parts[-1])) if isinstance(parts, tuple) else parts

        return without_last

"""S3Rec and RaCT: `train_stage` tells the run, and those before the last pass by RecBole's `fit`."""

from __future__ import annotations

from typing import Any, ClassVar

from recbole_rawp.host.quirks.registry import Pretraining, Quirk, register


@register
class TrainStage(Quirk):
    """Only in the run `finetune` is the model scored."""

    pretraining: ClassVar = {
        "S3Rec": Pretraining("train_stage", ("pretrain", "finetune"), "pre_model_path"),
        "RaCT": Pretraining("train_stage", ("actor_pretrain", "critic_pretrain", "finetune"), "pre_model_path"),
    }

    def fits(self, model: Any) -> bool:
        """Tell whether the model names its run."""
        return hasattr(model, "train_stage")

    def pretrains(self, model: Any) -> bool:
        """Tell whether it is a run before the last."""
        return bool(model.train_stage != "finetune")

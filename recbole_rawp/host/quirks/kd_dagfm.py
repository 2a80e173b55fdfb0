"""KD_DAGFM: a teacher is trained, then distilled into the model, then that is tuned."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from recbole_rawp.host.quirks.registry import Loss, Pretraining, Quirk, register


@register
class Distillation(Quirk):
    """The teacher answers only while the model itself is in training mode, also where its loss is attacked."""

    pretraining: ClassVar = {
        "KD_DAGFM": Pretraining("phase", ("teacher_training", "distillation", "finetuning"), "warm_up")
    }

    def fits(self, model: Any) -> bool:
        """Tell whether the model is being distilled."""
        return getattr(model, "phase", "") == "distillation"

    def loss(self, model: Any, loss: Loss) -> Loss:
        """Return the loss with the teacher answering."""
        return partial(in_training, model, loss)


def in_training(model: Any, loss: Loss, batch: Any) -> Any:
    """Return the loss with the model, but none of its parts, in training mode."""
    mode, model.training = model.training, True
    try:
        return loss(batch)
    finally:
        model.training = mode

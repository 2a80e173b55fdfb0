"""KD_DAGFM: a teacher is trained, then distilled into the model, then that is tuned."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from recbole.model.context_aware_recommender import kd_dagfm
from torch import nn

from recbole_rawp.errors import InputError
from recbole_rawp.host.quirks.registry import Loss, Pretraining, Quirk, register


@register
class Distillation(Quirk):
    """The teacher answers only while the model itself is in training mode, also where its loss is attacked."""

    pretraining: ClassVar = {
        "KD_DAGFM": Pretraining("phase", ("teacher_training", "distillation", "finetuning"), "warm_up")
    }

    def check_settings(self, config: Any) -> None:
        """Raise InputError for a teacher that is no network of RecBole's: the model evaluates its name."""
        names = [name for name, found in vars(kd_dagfm).items() if is_network(found)]
        if config["model"] == "KD_DAGFM" and config["teacher"] not in names:
            raise InputError(f"teacher: {config['teacher']!r} is none of RecBole's, which are {', '.join(names)}.")

    def fits(self, model: Any) -> bool:
        """Tell whether the model is being distilled."""
        return getattr(model, "phase", "") == "distillation"

    def loss(self, model: Any, loss: Loss) -> Loss:
        """Return the loss with the teacher answering."""
        return partial(in_training, model, loss)


def is_network(found: Any) -> bool:
    """Tell whether this is a network that the module of KD_DAGFM defines for a teacher or the model."""
    own = isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == kd_dagfm.__name__
    return own and hasattr(found, "FeatureInteraction") and found is not kd_dagfm.KD_DAGFM


def in_training(model: Any, loss: Loss, batch: Any) -> Any:
    """Return the loss with the model, but none of its parts, in training mode."""
    mode, model.training = model.training, True
    try:
        return loss(batch)
    finally:
        model.training = mode

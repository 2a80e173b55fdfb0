"""Which of a model's losses is that of the recommendation task?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn


def training_loss(model: Any) -> Callable[[Any], Any]:
    """Return the loss of the recommendation task.

    MKR keeps it apart from that of its knowledge graph; RecVAE has two, of which the decoder's is the plain one; in
    distillation KD_DAGFM's teacher answers only while the model itself is in training mode.
    """
    loss = getattr(model, "calculate_rs_loss", None) or model.calculate_loss
    if getattr(model, "phase", "") == "distillation":
        return partial(_in_training, model, loss)
    if "encoder_flag" in inspect.signature(loss).parameters:
        return partial(loss, encoder_flag=False)
    return loss


def _in_training(model: nn.Module, loss: Callable[[Any], Any], batch: Any) -> Any:
    """Return the loss with the model, but none of its parts, in training mode."""
    mode, model.training = model.training, True
    try:
        return loss(batch)
    finally:
        model.training = mode

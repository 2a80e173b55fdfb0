"""RecVAE: encoder and decoder take turns, each with a loss and an optimizer of its own."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from recbole_rawp.host.quirks.registry import Loss, Quirk, register


@register
class EncoderFlag(Quirk):
    """The decoder's loss is the plain one."""

    def fits(self, model: Any) -> bool:
        """Tell whether the loss asks for the encoder or the decoder."""
        loss = getattr(model, "calculate_loss", None)
        return loss is not None and "encoder_flag" in inspect.signature(loss).parameters

    def loss(self, model: Any, loss: Loss) -> Loss:
        """Return the decoder's."""
        return partial(loss, encoder_flag=False)

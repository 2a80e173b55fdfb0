"""KGAT: its attention matrix, which is in no checkpoint, is computed from the weights after each epoch."""

from __future__ import annotations

from typing import Any

import torch

from recbole_rawp.host.quirks.registry import Quirk, register


@register
class AttentionMatrix(Quirk):
    """The matrix follows weights that are there to stay."""

    def fits(self, model: Any) -> bool:
        return hasattr(model, "update_attentive_A")

    def settle(self, model: Any) -> None:
        with torch.no_grad():
            model.update_attentive_A()

"""KGAT: its attention matrix, which is in no checkpoint, is computed from the weights after each epoch."""

from __future__ import annotations

from typing import Any

import torch

from recbole_rawp.host.quirks.registry import Quirk, register


@register
class AttentionMatrix(Quirk):
    """The matrix follows weights that are there to stay."""

    def fits(self, model: Any) -> bool:
        """Tell whether the model has such a matrix."""
        return hasattr(model, "update_attentive_A")

    def settle(self, model: Any) -> None:
        """Compute the matrix from the weights as they are."""
        with torch.no_grad():
            model.update_attentive_A()

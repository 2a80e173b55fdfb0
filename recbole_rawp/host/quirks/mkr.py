"""MKR: the loss of the recommendation task stands apart from that of its knowledge graph."""

from __future__ import annotations

from typing import Any

from recbole_rawp.host.quirks.registry import Loss, Quirk, register


@register
class TwoTasks(Quirk):
    """`calculate_rs_loss` is the loss of the recommendation task."""

    def fits(self, model: Any) -> bool:
        """Tell whether the loss of the recommendation task stands apart."""
        return getattr(model, "calculate_rs_loss", None) is not None

    def loss(self, model: Any, loss: Loss) -> Loss:
        """Return that loss."""
        return model.calculate_rs_loss

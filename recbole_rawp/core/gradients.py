"""Adds up losses, alone or in tuples, and differentiates them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recbole_rawp.core.ball import Weights

Loss = Union[Tensor, tuple[Tensor, ...]]
LossFunction = Callable[[Any], Loss]
Gradients = Sequence[Union[Tensor, None]]

SCALES = (2.0**16, 2.0**8, 1.0)  # of a loss in fp16, whose small gradients would vanish: the first without overflow


def gradients(loss: Loss, weights: Weights, *, retain_graph: bool = False) -> Weights:
    """Return d(sum of the losses)/dw for each weight, dense; 0 for a weight that the loss does not use."""
    value, leaves = total(loss), list(weights.values())
    found: Gradients
    if low_precision():
        found = scaled_gradients(value.float(), leaves)
    else:
        found = torch.autograd.grad(value, leaves, retain_graph=retain_graph, allow_unused=True)
    torch.clear_autocast_cache()  # its casts of other weights belong to the graph just freed
    dense = (g.to_dense() if g is not None and g.is_sparse else g for g in found)
    return {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), dense)}


def low_precision() -> bool:
    """Tell whether small gradients may vanish: CUDA's autocast runs in fp16; bf16, the CPU's, has float32's range."""
    return torch.is_autocast_enabled()


def scaled_gradients(value: Tensor, leaves: list[Tensor]) -> Gradients:
    """Return d(value)/d(leaf) for each leaf, taken of a scaled value as GradScaler does; the graph stays.

    RecBole's own scaler, hidden in its epoch, skips the step of an overflow; here the scale is lowered at once.
    """
    found: Gradients = ()
    for scale in SCALES:
        with torch.autograd.set_detect_anomaly(False):  # which importing RecBole's SINE switches on: an overflow raises
            raw = torch.autograd.grad(value * scale, leaves, retain_graph=True, allow_unused=True)
        found = [g if g is None else g / scale for g in raw]
        if all(bool(g.sum().isfinite()) for g in found if g is not None):
            break
    return found


def total(loss: Loss) -> Tensor:
    """Return the sum of a loss's parts."""
    return sum(loss[1:], loss[0]) if isinstance(loss, tuple) else loss


def combine(*terms: tuple[float, Loss]) -> Loss:
    """Return sum of weight * loss, part by part where the losses are tuples."""
    if isinstance(terms[0][1], tuple):
        return tuple(_weighted(zip((w for w, _ in terms), parts)) for parts in zip(*(loss for _, loss in terms)))
    return _weighted(terms)  # type: ignore[arg-type]


def _weighted(terms: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Return sum of weight * loss; a weight of 1 leaves the loss's bits alone."""
    scaled = [loss if weight == 1 else weight * loss for weight, loss in terms]
    return sum(scaled[1:], scaled[0])

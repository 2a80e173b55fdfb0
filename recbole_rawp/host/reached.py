"""Looks whether what takes the place of weights reaches the loss of a model."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from recbole_rawp.core import restoring
from recbole_rawp.core.ball import Weights
from recbole_rawp.core.gradients import total
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError
from recbole_rawp.host.batches import fixed_batches
from recbole_rawp.host.quirks import training_loss

logger = logging.getLogger()
_told: WeakSet[nn.Module] = WeakSet()  # models of which some weights are missed


def check_reached(model: nn.Module, weights: Weights, train_data: Any, device: Any) -> None:
    """Warn of weights that the training loss reads past what stands in their place, which no change of ours reaches.

    Such are held by something else than the model's modules, or were made into something else in its constructor.

    Raises:
        InputError: if these are all of `weights`.
    """
    try:
        (batch,) = fixed_batches(train_data, 1, device)
        missed = past_the_overlay(model, weights, batch)
    except Exception:  # of a loss that a trainer must prepare, or does without; training shows it
        return
    if not missed:
        return
    names, name = ", ".join(missed), type(model).__name__
    reason = f"{name} does not take {names} from where its parameters are, so no change of ours reaches its loss"
    if len(missed) == len(weights):
        raise InputError(f"model: {reason}. Let it use self.LAYER.weight itself whenever it computes.")
    if model not in _told:
        logger.warning(f"{reason}: nothing is measured or hardened there.")
    _told.add(model)


def past_the_overlay(model: nn.Module, weights: Weights, batch: Any) -> list[str]:
    """Return the weights that the loss has a gradient by though others stand in their places, or reads as made before.

    The latter: it has none by the others, and the model keeps a tensor that was computed from the weight.
    """
    others = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    made = made_of(model, weights)
    with restoring.rng(), restoring.state(model), overlay(model, others), torch.enable_grad():
        loss = total(training_loss(model)(batch))
        found = torch.autograd.grad(loss, [*weights.values(), *others.values()], allow_unused=True)
    past, through = found[: len(weights)], found[len(weights) :]
    rows = zip(weights, past, through)
    return [name for name, own, other in rows if own is not None or (other is None and name in made)]


def made_of(model: nn.Module, weights: Weights) -> set[str]:
    """Return the weights from which a tensor was computed that some module keeps."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    found: set[str] = set()
    for tensor in kept:
        if tensor.grad_fn is not None:
            with torch.enable_grad():
                by = torch.autograd.grad(tensor.sum(), list(weights.values()), allow_unused=True, retain_graph=True)
            found |= {name for name, gradient in zip(weights, by) if gradient is not None}
    return found

"""Finds the loss by which a model is trained: its own, or one that the user's trainer passes to RecBole's loop."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from recbole_rawp.core import restoring
from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.errors import InputError
from recbole_rawp.host import quirks
from recbole_rawp.host.batches import fixed_batches

# A loss that takes no batch, is not written, or wants a field that the trainer's loss adds to the batch.
ABSENT = (NotImplementedError, KeyError)


class LossFound(Exception):
    """Ends the epoch of a trainer that was asked for its loss, before it begins."""

    def __init__(self, loss: LossFunction) -> None:
        super().__init__()
        self.loss = loss


def loss_of(trainer: Any, train_data: Any) -> LossFunction:
    """Return the loss of the recommendation task: the model's, or its trainer's where that cannot be called.

    Raises:
        InputError: if there is neither.
    """
    loss: LossFunction = quirks.training_loss(trainer.model)
    (batch,) = fixed_batches(train_data, 1, trainer.device)
    wrong = failure(trainer.model, loss, batch)
    if wrong is None:
        return loss
    passed = loss_passed(trainer, train_data)
    if passed is not None:
        failed = failure(trainer.model, passed, batch)
        if failed is None or (isinstance(wrong, ABSENT) and not isinstance(failed, ABSENT)):
            return passed
    if not isinstance(wrong, ABSENT):  # what else is wrong with it training shows
        return loss
    raise InputError(
        f"model: calculate_loss of {type(trainer.model).__name__} cannot be called with a batch alone, and "
        f"{type(trainer).__name__} passes no other loss to super()._train_epoch. Write one of them."
    )


def failure(model: Any, loss: LossFunction, batch: Any) -> Exception | None:
    """Return what a loss raises at a batch as it is; None if it takes it. One of ABSENT: there is no such loss."""
    try:
        inspect.signature(loss).bind(batch)
    except TypeError as error:
        return NotImplementedError(str(error))
    try:
        with restoring.rng(), restoring.state(model), torch.no_grad():
            loss(batch)
    except Exception as error:  # a user's code
        return error
    return None


def loss_passed(trainer: Any, train_data: Any) -> LossFunction | None:
    """Return the loss that a trainer's last epoch passes to RecBole's loop; None if none comes through to us."""
    if not hasattr(trainer, "asked"):  # RecBole's own, which would train
        return None
    before = trainer.snapshot()
    try:
        with trainer.asked(), restoring.rng(), restoring.state(trainer.model):
            trainer._train_epoch(train_data, max(0, trainer.epochs - 1))
    except LossFound as found:
        return found.loss
    except Exception:  # a user's code may mind that no training has begun
        pass
    trainer.put_trained(before)  # a loop of the user's own trained
    return None

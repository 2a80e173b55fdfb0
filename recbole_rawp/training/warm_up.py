"""Which epochs of a hardened training are plain, and what do they count for?  For the weights they leave, no more."""

from __future__ import annotations

import math
from typing import Any

from recbole_rawp.errors import InputError


def check(config: Any, warm_up: int, valid_data: Any) -> None:
    """Raise InputError if a model of `config` would be kept after plain epochs only.

    Args:
        config: of which `epochs` and `eval_step` are used; 0 epochs train nothing, which is allowed.
        warm_up: number of plain epochs, `rawp_warmup_epochs`.
        valid_data: false where there are none; then the last epoch's model is kept.
    """
    epochs = config["epochs"]
    step = min(config["eval_step"], epochs) if valid_data else 0  # as RecBole's Trainer
    last = epochs // step * step if step > 0 else epochs
    if 0 < last <= warm_up:
        raise InputError(
            f"rawp_warmup_epochs: {warm_up} of {epochs} epochs, validated every {step or epochs}, leave no hardened "
            "model to keep. Lower it, train longer, or validate more often (eval_step)."
        )


def check_pretraining(config: Any, warm_up: int) -> None:
    """Raise InputError if a pretraining that is to be hardened has plain epochs only."""
    epochs = config["pretrain_epochs"]
    if epochs and epochs <= warm_up:
        raise InputError(
            f"rawp_warmup_epochs: {warm_up} of {epochs} epochs of pretraining leave none to harden. Lower it, or leave "
            "rawp_pretraining out."
        )


def check_kept(trainer: Any) -> None:
    """Raise InputError if no hardened model was the best one: the scores were NaN, or no validation came after it."""
    if not math.isfinite(trainer.best_valid_score):
        raise InputError(
            f"valid_metric: {trainer.valid_metric} of no hardened model was a number, so the best one is plain. "
            "Validate after more epochs or more often (eval_step), or train with a smaller learning_rate."
        )


def forget(trainer: Any, epoch: int) -> None:
    """At the start of an epoch before which nothing was perturbed: no model so far is the best, no patience is used.

    Else RecBole's early stopping, by the clean valid score, would keep a plain model and call it hardened.
    """
    if epoch <= trainer.plain_until:
        trainer.cur_step = 0
        trainer.best_valid_score = -math.inf if trainer.valid_metric_bigger else math.inf


def note(trainer: Any, epoch: int, perturbed: int) -> None:
    """After a pass of an epoch that was to be hardened: where its masks were all empty, the warm-up is longer by it.

    Args:
        trainer: whose `plain_until`, the first epoch whose model is hardened, is changed.
        epoch: that epoch.
        perturbed: batches of the pass that had a perturbation.
    """
    if perturbed:
        trainer.plain_until = min(trainer.plain_until, epoch)
    elif epoch == trainer.plain_until:
        trainer.plain_until = epoch + 1

"""Counts the plain epochs of a hardened training for the weights that they leave, and for no more."""

from __future__ import annotations

import math
from typing import Any

from recbole_rawp.errors import InputError
from recbole_rawp.training.callbacks import Callback


class WarmUp(Callback):
    """Keeps plain models from being the best one, and says so where only those are left."""

    def on_train_begin(self, trainer: Any) -> None:
        """Raise InputError if only plain epochs would be validated."""
        if trainer.hardens_now and trainer.start_epoch < trainer.epochs:
            check(trainer.config, trainer.settings.training.warmup_epochs, trainer.arguments.valid_data)

    def on_epoch_begin(self, trainer: Any, train_data: Any, epoch: int) -> None:
        """Where nothing was perturbed before, no model so far is the best, and no patience is used.

        Else RecBole's early stopping, by the clean valid score, would keep a plain model and call it hardened.
        """
        if trainer.hardens_now and not trainer.trains_plain_model and epoch <= trainer.state.plain_until:
            trainer.forget_best()

    def on_pass_end(self, trainer: Any, epoch: int) -> None:
        """Where the masks of a pass that was to be hardened were all empty, the warm-up is longer by its epoch."""
        state = trainer.state
        if state.perturbed:
            state.plain_until = min(state.plain_until, epoch)
        elif state.perturbed == 0 and epoch == state.plain_until:
            state.plain_until = epoch + 1

    def on_train_end(self, trainer: Any) -> None:
        """Warn if no epoch that was to be hardened was perturbed.

        Raises:
            InputError: if no hardened model was the best one; or if epochs were to be hardened and none passed through
                the hardened loss, unless the trainer is `lenient`.
        """
        if not trainer.hardens_now:
            return
        arguments, plain_until = trainer.arguments, trainer.state.plain_until
        last = max(trainer.train_loss_dict, default=-1)
        late = last >= trainer.settings.training.warmup_epochs
        never = trainer.state.epoch_begun is None and trainer.start_epoch < trainer.epochs
        if trainer.objective is None and (late or never):
            trainer.cannot_harden(
                f"{type(trainer).__name__}: its fit never reached the hardened loss, so the model is plain. Let it "
                "call self._train_epoch(...) for each epoch."
            )
            return
        if arguments.valid_data and trainer.eval_step > 0 and last >= plain_until > 0:
            check_kept(trainer)
        if max(last, trainer.start_epoch - 1) < plain_until:
            trainer.logger.warning(
                "The model is plain: nothing was perturbed. Train longer, or raise rawp_mask_probability."
            )


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

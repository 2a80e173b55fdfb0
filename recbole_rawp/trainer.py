"""How does it enter RecBole's epoch?

`Trainer._train_epoch` takes the loss function as an argument: that is the seam. Loop, optimizer, clipping, mixed
precision, early stopping, checkpoints and logs stay RecBole's.
"""

import os
from functools import cache
from typing import Any

import recbole.trainer
import torch
from recbole.config import Config
from recbole.trainer.trainer import DecisionTreeTrainer, TraditionalTrainer, Trainer
from recbole.utils import set_color
from torch import nn

from recbole_rawp import config as options
from recbole_rawp.errors import InputError
from recbole_rawp.objective import Objective
from recbole_rawp.selection import TARGETS
from recbole_rawp.weights import chosen_weights, weight_table


class RAWPTrainer(Trainer):
    """RecBole's Trainer with stage 1 of RAWP-FT: every batch's loss becomes `Objective`'s.

    `defense` in the config decides at run time; with `none` the loss is not wrapped and the run is RecBole's, bit
    for bit. At the first hardened epoch the table of perturbed weights is logged; each epoch the adversarial loss,
    the masks and the perturbation norms go to TensorBoard under `RAWP/` (and the loss to wandb).

    Args:
        config: RecBole's Config or `RAWPConfig`; options missing from it take their defaults.
        model: the model to train, changed in place by training as by RecBole.

    Raises:
        InputError: for invalid options, or when the model has nothing to perturb (unless `lenient`).
    """

    lenient = False  # set by `register`: a model that cannot be hardened trains plainly, with one warning

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__(config, model)
        self.settings = options.training(config)
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.objective: Objective | None = None
        self.hardened_epoch: int | None = None
        self.hardens = self.settings.defense != "none" and self._can_harden()

    def _can_harden(self) -> bool:
        try:
            options.check_gradient(type(self.model).__name__)
            chosen_weights(self.model, self.settings)
        except InputError as error:
            if not self.lenient or self.settings.target not in TARGETS:  # a pattern that fails is a mistake
                raise
            self.logger.warning(f"{error} Training plainly.")
            return False
        return True

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        loss_func = loss_func or self.model.calculate_loss
        pretraining = getattr(self.model, "train_stage", "finetune") != "finetune"  # S3Rec, RaCT
        if not self.hardens or pretraining or epoch_idx < self.settings.warmup_epochs:
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        objective = self._begin(epoch_idx)
        result = super()._train_epoch(train_data, epoch_idx, lambda batch: objective(loss_func, batch), show_progress)
        if objective.batches == 0:
            raise RuntimeError(
                f"{type(self).__name__}: epoch {epoch_idx} was to be hardened, but its loop did not use loss_func"
            )
        self._log(objective, epoch_idx)
        objective.reset()
        return result

    def _begin(self, epoch_idx: int) -> Objective:
        """Return the objective, its weights selected anew: loading may have replaced whole modules."""
        weights, omega = chosen_weights(self.model, self.settings)
        if self.objective is None:
            self.logger.info(weight_table(self.model, weights, omega, self.settings.defense))
            self.objective = Objective(self.model, weights, self.settings.recipe, omega=omega, generator=self.generator)
        self.objective.weights, self.objective.omega = weights, omega
        if self.hardened_epoch != epoch_idx:  # some trainers run several passes per epoch
            self.objective.draw()
            self.hardened_epoch = epoch_idx
        return self.objective

    def _log(self, objective: Objective, epoch_idx: int) -> None:
        if objective.perturbed:
            loss = float(objective.losses) / objective.perturbed
            self.tensorboard.add_scalar("RAWP/adversarial_loss", loss, epoch_idx)
            self.wandblogger.log_metrics({"adversarial_loss": loss, "train_step": epoch_idx}, head="train")
        self.tensorboard.add_scalar("RAWP/radius_stretch", objective.stretch, epoch_idx)
        for name, used in objective.mask.items():
            self.tensorboard.add_scalar(f"RAWP/mask/{name}", int(used), epoch_idx)
        for name, (norm, count) in objective.norms.items():
            self.tensorboard.add_scalar(f"RAWP/delta_norm/{name}", float(norm) / count, epoch_idx)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, Any]:
        """Train as RecBole does; its signature and result.

        Raises:
            RuntimeError: if epochs were to be hardened and none was.
        """
        result = super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
        due = self.hardens and max(self.train_loss_dict, default=-1) >= self.settings.warmup_epochs
        if due and self.objective is None and getattr(self.model, "train_stage", "finetune") == "finetune":
            raise RuntimeError(
                f"{type(self).__name__}: its epochs never reached the hardened loss; robustness was not trained"
            )
        return result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save as RecBole does, but whole or not at all: a kill never leaves half a file."""
        target = kwargs.pop("saved_model_file", self.saved_model_file)
        partial = f"{target}.partial"
        super()._save_checkpoint(epoch, verbose=False, saved_model_file=partial, **kwargs)
        if os.path.exists(partial):  # in distributed training only rank 0 writes
            os.replace(partial, target)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {target}")


class RAWPFTTrainer(RAWPTrainer):
    """Both stages of RAWP-FT. Stage 2 is not there yet: this runs stage 1."""


@cache
def robustify(trainer_class: Any) -> Any:
    """Return `trainer_class` with RAWP-FT in it; the same class for the same argument.

    A trainer that reaches `super()._train_epoch` (RecBole's KGTrainer, MKRTrainer, RecVAETrainer, most of users'
    own) keeps its say over losses and phases; one with a loop of its own that honours `loss_func` (NCLTrainer) is
    called with the hardened loss.

    Raises:
        InputError: if `trainer_class` is not a trainer that descends a gradient.
    """
    if issubclass(trainer_class, RAWPTrainer):
        return trainer_class
    if issubclass(trainer_class, (TraditionalTrainer, DecisionTreeTrainer)) or not issubclass(trainer_class, Trainer):
        raise InputError(
            f"{trainer_class.__name__} does not train by gradient descent, so it cannot be hardened. Use it as it is."
        )
    if trainer_class is Trainer:
        return RAWPFTTrainer
    bases = (RAWPFTTrainer, trainer_class) if has_own_loop(trainer_class) else (trainer_class, RAWPFTTrainer)
    return type(f"RAWP{trainer_class.__name__}", bases, {})


def has_own_loop(trainer_class: type) -> bool:
    """Tell whether some `_train_epoch` above RecBole's Trainer does not reach `super()._train_epoch`."""
    epochs = [
        vars(cls)["_train_epoch"] for cls in trainer_class.__mro__ if "_train_epoch" in vars(cls) and cls is not Trainer
    ]
    return any(
        "__class__" not in epoch.__code__.co_freevars or "_train_epoch" not in epoch.__code__.co_names
        for epoch in epochs
    )


_originals: dict[str, type] = {}


def register() -> None:
    """Make RecBole use hardened trainers: `run_recbole`, HyperTuning and `get_trainer` pick them up unchanged.

    Replaces the gradient trainers in the package `recbole.trainer`, whose names RecBole looks up by model. Models
    that cannot be hardened train plainly, with one warning. Idempotent; `unregister` undoes it.
    """
    if _originals:
        return
    for name, cls in list(vars(recbole.trainer).items()):
        if isinstance(cls, type) and issubclass(cls, Trainer) and not issubclass(cls, TraditionalTrainer):
            _originals[name] = cls
            setattr(recbole.trainer, name, type(cls.__name__, (robustify(cls),), {"lenient": True}))


def unregister() -> None:
    """Give RecBole its own trainers back."""
    for name, cls in _originals.items():
        setattr(recbole.trainer, name, cls)
    _originals.clear()

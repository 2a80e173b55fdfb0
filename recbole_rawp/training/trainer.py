"""How does it enter RecBole's epoch?

`Trainer._train_epoch` takes the loss function as an argument: that is the seam. Loop, optimizer, clipping, mixed
precision, early stopping, checkpoints and logs stay RecBole's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.trainer.trainer import Trainer
from recbole.utils import set_color
from torch import nn

from recbole_rawp import compat
from recbole_rawp.config import settings as options
from recbole_rawp.config.suites import WORDS
from recbole_rawp.core.activation_objective import ActivationObjective
from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.core.objective import Objective
from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.core.selection import Weights
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint, quirks
from recbole_rawp.host.config import check_gradient
from recbole_rawp.host.quirks import pretraining
from recbole_rawp.host.weights import chosen_weights, weight_table
from recbole_rawp.training import resume, warm_up
from recbole_rawp.training.radius import searching
from recbole_rawp.training.radius.search import RadiusSearch
from recbole_rawp.training.stage2 import criticality

compat.mend_preloaded(Dataset)


class RAWPTrainer(Trainer):
    """RecBole's Trainer with stage 1 of RAWP-FT: every batch's loss becomes `Objective`'s.

    `defense` in the config decides at run time; with `none` the loss is not wrapped and the run is RecBole's, bit
    for bit. At the first hardened epoch the table of perturbed weights is logged; each epoch the adversarial loss,
    the masks and the perturbation norms go to TensorBoard under `RAWP/` (and the loss to wandb).

    Args:
        config: RecBole's Config or `RAWPConfig`; options missing from it take their defaults. A missing `defense`
            is written into it, so that the checkpoint tells what its model has.
        model: the model to train, changed in place by training as by RecBole.

    Attributes:
        resume_file: where the state is written before each epoch; None (the default) writes none.
        resumed: such a state, from which `fit` goes on.
        fingerprint: of the settings, kept in the file.
        search: of the radius, where `rawp_radius` is auto (`radius_search`); else None.
        best_weights: those of the best model, where no file holds them and something needs them.
        plain_until: the first epoch whose model is hardened: after the warm-up, a plain
            checkpoint that was resumed, and empty masks at the start.
        seconds: time spent in stage 1, over all of its runs.

    Raises:
        InputError: for invalid options, or when the model has nothing to perturb (unless `lenient`).
    """

    lenient = False  # set by `register`: a model that cannot be hardened trains plainly, with one warning

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__(config, model)
        self.settings = options.training(config)
        self.generator = torch.Generator().manual_seed(config["seed"])
        self.objective: Objective | None = None
        self.measured_omega: dict[str, float] | None = None
        self.hardened: Callable[[LossFunction], LossFunction] | None = None  # stage 2 puts its own loss here
        self.perturbable = self._perturbable()
        if self.perturbable and not config["defense"]:  # a plain Config under `register`: its checkpoints name none
            config["defense"] = self.settings.defense
        self.hardens = self.settings.defense != "none" and self.perturbable
        if self.hardens:
            searching.check_scored(self.settings, model)
        if self.hardens and self.pretraining and self.settings.pretraining:
            warm_up.check_pretraining(config, self.settings.warmup_epochs)
        if self.hardens and self._pretrains_plainly:
            self.logger.info("Pretraining is plain; rawp_pretraining=True hardens it, too.")
        self.search: RadiusSearch | None = None
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.valid_result: dict[str, float] = {}
        self.resume_file: Path | None = None
        self.resumed: resume.State | None = None
        self.fingerprint = ""
        self.outside = resume.Outside(model)
        self.loaders: list[Any] = []
        self.epoch_begun: int | None = None
        self.plain_until = self.settings.warmup_epochs
        self.seconds = 0.0
        self.clock = time.perf_counter()

    def _perturbable(self) -> bool:
        """Tell whether there is something to perturb, where it is wanted."""
        if self.settings.defense == "none" and not options.fine_tuning(self.config).rounds:
            return False
        try:
            check_gradient(type(self.model).__name__)
            chosen_weights(self.model, self.settings)
        except InputError as error:
            if not self.lenient or self.settings.target not in WORDS:  # a pattern that fails is a mistake
                raise
            self.logger.warning(f"{error} Training plainly.")
            return False
        return True

    @property
    def pretraining(self) -> bool:
        """Whether the model is in a stage before the one that counts (S3Rec, RaCT)."""
        return pretraining(self.model)

    @property
    def _pretrains_plainly(self) -> bool:
        """Whether this is pretraining, and it is not to be hardened."""
        return self.pretraining and not self.settings.pretraining

    @property
    def defense(self) -> str:
        """The defense that this training has."""
        return "none" if self._pretrains_plainly else self.settings.defense

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float | tuple[float, ...]:
        loss_func = loss_func or self.model.calculate_loss
        if self.hardened is not None:
            loss_func = self.hardened(quirks.counted(self, loss_func, epoch_idx))
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        if self.epoch_begun != epoch_idx:  # some trainers run several passes per epoch
            self._save_state(1, epoch_idx)
        first, self.epoch_begun = self.epoch_begun != epoch_idx, epoch_idx
        if first and self._hardening:
            warm_up.forget(self, epoch_idx)
        if not self._hardening or epoch_idx < self.settings.warmup_epochs:
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        objective = self._begin(train_data, epoch_idx, first)
        counted = quirks.counted(self, loss_func, epoch_idx)
        result = super()._train_epoch(train_data, epoch_idx, lambda batch: objective(counted, batch), show_progress)
        if objective.batches == 0:
            raise RuntimeError(
                f"{type(self).__name__}: epoch {epoch_idx} was to be hardened, but its loop did not use loss_func. "
                "Take each batch's loss from it, or call super()._train_epoch(...)."
            )
        warm_up.note(self, epoch_idx, objective.perturbed)
        if self.search is not None and objective.perturbed:
            self.search.perturbed = True
        self._log(objective, epoch_idx)
        objective.reset()
        return result

    @property
    def _hardening(self) -> bool:
        """Whether this training is the one that hardens, after plain epochs or none."""
        plain = self._pretrains_plainly or (self.search is not None and not self.search.trained_plainly)
        return self.hardens and not plain

    def _begin(self, train_data: Any, epoch_idx: int, first: bool) -> Objective:
        """Return the objective for this pass; the first of an epoch draws masks and, where due, measures omega."""
        objective = self.objective or self.build_objective()
        weights, omega = chosen_weights(self.model, self.settings)
        if first:
            if self.settings.layer_weights == "criticality":
                self._measure_omega(train_data, weights, epoch_idx)
            objective.draw()
        objective.weights, objective.omega = weights, self.measured_omega or omega
        if self.search is not None:
            objective.recipe = replace(objective.recipe, radius=self.search.radius)
        return objective

    def build_objective(self) -> Objective:
        """Make the objective, and log the table of weights that it perturbs."""
        weights, omega = chosen_weights(self.model, self.settings)
        self.logger.info(weight_table(self.model, weights, omega, self.settings.defense))
        kind = ActivationObjective if self.settings.target == "activations" else Objective
        self.objective = kind(self.model, weights, self.settings.recipe, omega=omega, generator=self.generator)
        return self.objective

    def _measure_omega(self, train_data: Any, weights: Weights, epoch_idx: int) -> None:
        """Measure omega by criticality at the first hardened epoch, and at every k-th after it."""
        age = epoch_idx - self.settings.warmup_epochs
        if self.measured_omega is None or age % self.settings.criticality_every == 0:
            self.measured_omega = criticality.omega(
                self, train_data, weights=weights, settings=self.settings.criticality
            )
            words = ", ".join(f"{name} {value:.3g}" for name, value in self.measured_omega.items())
            self.logger.info(f"omega by criticality: {words}")

    def _log(self, objective: Objective, epoch_idx: int) -> None:
        if objective.perturbed:
            loss = float(objective.losses) / objective.perturbed
            self.tensorboard.add_scalar("RAWP/adversarial_loss", loss, epoch_idx)
            self.wandblogger.log_metrics({"adversarial_loss": loss, "train_step": epoch_idx}, head="train")
            if not any(float(norm) for norm, _ in objective.norms.values()):
                self.logger.warning(
                    f"rawp_target: nothing moved in epoch {epoch_idx}; no loss has a usable gradient by these weights."
                )
        self.tensorboard.add_scalar("RAWP/radius", objective.recipe.radius, epoch_idx)
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
        """Train as RecBole does; its signature and result. With `rawp_radius: auto`, train plainly first, and search.

        Raises:
            RuntimeError: if epochs were to be hardened and none was.
            InputError: if no hardened model would be kept, or if a radius is to be found and there are no valid data.
        """
        self.loaders = [loader for loader in (train_data, valid_data) if loader is not None]
        state, self.resumed = self.resumed, None
        train = partial(super().fit, train_data, valid_data, verbose)
        hardens = self.hardens and not self._pretrains_plainly
        if hardens and self.start_epoch < self.epochs:
            warm_up.check(self.config, self.settings.warmup_epochs, valid_data)
            if self.settings.clean_budget is not None:
                searching.check_searchable(self.config, self.model, valid_data)
                state = searching.train_plainly(self, train, state, saved=saved, show_progress=show_progress)
        if state is not None:
            resume.restore(self, self.loaders, state)
        self.clock = time.perf_counter() - self.seconds
        if self.search is None or self.start_epoch >= self.epochs:
            result = train(saved, show_progress, callback_fn)
        else:
            result = searching.search(self, train, callback_fn, saved=saved, show_progress=show_progress)
        self.seconds = time.perf_counter() - self.clock
        if hardens:
            self._check_hardened(valid_data)
        return result

    def _check_hardened(self, valid_data: Any) -> None:
        """Warn if no epoch that was to be hardened was perturbed; raise as `fit`."""
        last = max(self.train_loss_dict, default=-1)
        if last >= self.settings.warmup_epochs and self.objective is None:
            raise RuntimeError(
                f"{type(self).__name__}: its epochs never reached the hardened loss; robustness was not trained. "
                "Let its loop call self._train_epoch(...), and that super()._train_epoch(...)."
            )
        if valid_data and self.eval_step > 0 and last >= self.plain_until > 0:
            warm_up.check_kept(self)
        if max(last, self.start_epoch - 1) < self.plain_until:
            self.logger.warning(
                "The model is plain: nothing was perturbed. Train longer, or raise rawp_mask_probability."
            )

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        score, self.valid_result = super()._valid_epoch(valid_data, show_progress)
        return score, self.valid_result

    def _save_state(self, stage: int, epoch: int | None = None) -> None:
        """Write the resume file, if one is wanted: before an epoch of stage 1 or 2, or as stage 3 when all is done."""
        if self.resume_file is None or self.pretraining:  # RecBole's pretraining does not pass through `fit`
            return
        if stage == 1:
            self.seconds = time.perf_counter() - self.clock
        state = resume.capture(self, self.loaders, self.outside, epoch=self.epochs if epoch is None else epoch)
        resume.save(self.resume_file, state | {"stage": stage} | self._more_state())

    def _more_state(self) -> dict[str, Any]:
        """Return what is in the resume file beside what every trainer has."""
        return {"search": None if self.search is None else vars(self.search)}

    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> Any:
        """Evaluate as RecBole does; its signature and result."""
        with quirks.modules_kept(self.model):
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Load a RecBole checkpoint as RecBole does; the optimizer goes on training every weight.

        That of a plain model counts as a warm-up: it is not the best of the hardened training that follows.
        """
        with quirks.modules_kept(self.model):
            super().resume_checkpoint(resume_file)
        if checkpoint.read(resume_file)["config"]["defense"] in (None, "none"):  # as plain as a warm-up
            self.plain_until = max(self.plain_until, self.start_epoch)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save as RecBole does, but whole or not at all, and without caches of propagated embeddings."""
        clear_caches(self.model.modules())
        target = kwargs.pop("saved_model_file", self.saved_model_file)
        partial = f"{target}.partial"
        super()._save_checkpoint(epoch, verbose=False, saved_model_file=partial, **kwargs)
        if os.path.exists(partial):  # in distributed training only rank 0 writes
            os.replace(partial, target)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {target}")

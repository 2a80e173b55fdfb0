"""Enters RecBole's epoch: the trainers of RAWP-FT.

`Trainer._train_epoch` takes the loss function as an argument: that is the seam. Loop, optimizer, clipping, mixed
precision, early stopping, checkpoints and logs stay RecBole's. What is done there is in callbacks (`callbacks`), what
is known in `state.TrainingState`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from recbole.config import Config
from torch import nn

from recbole_rawp.config.settings import FineTuning, read
from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.core.objective import Objective
from recbole_rawp.errors import InputError
from recbole_rawp.host import compat, quirks, vocabulary
from recbole_rawp.host.data import fingerprint
from recbole_rawp.training import warm_up
from recbole_rawp.training.callbacks import Callback, FitArguments, OtherLoss
from recbole_rawp.training.hardening import Hardening, perturbable, tell_defense
from recbole_rawp.training.radius.callback import RadiusSearching, refuse, with_found
from recbole_rawp.training.radius.checks import check_scored
from recbole_rawp.training.resumable import ResumableTrainer, Saving
from recbole_rawp.training.seams.calls import FIT, named, taken
from recbole_rawp.training.seams.epochs import HookedEpochs
from recbole_rawp.training.seams.validations import kept_apart
from recbole_rawp.training.seams.watching import watch
from recbole_rawp.training.stage2.repair import Stage2
from recbole_rawp.training.state import TrainingState


class RAWPTrainer(HookedEpochs, ResumableTrainer):
    """RecBole's Trainer with stage 1 of RAWP-FT: every batch's loss becomes `Objective`'s.

    `defense` in the config decides at run time; with `none` the loss is not wrapped and the run is RecBole's, bit
    for bit. At the first hardened epoch the table of perturbed weights is logged; each epoch the adversarial loss,
    the masks and the perturbation norms go to TensorBoard under `RAWP/` (and the loss to wandb).

    Args:
        config: RecBole's Config or `RAWPConfig`; options missing from it take their defaults. A missing `defense`
            is written into it, so that the checkpoint tells what its model has.
        model: the model to train, changed in place by training as by RecBole.
        rest, options: what a trainer of the user's own takes beside these.

    Attributes:
        settings: ours, read once.
        state: what this training knows beyond RecBole's.
        callbacks: what hooks into it, in order; one of the user's own can be added.
        arguments: of `fit`, once it was called.
        plain_model: a RecBole checkpoint of the model as it is, from which a search for the radius goes on; None, it
            trains the plain model first.

    Raises:
        InputError: for invalid options, or when the model has nothing to perturb (unless `lenient`).
    """

    def __init__(self, config: Config, model: nn.Module, *rest: Any, **options: Any) -> None:
        compat.apply()
        super().__init__(config, model, *rest, **options)
        self.settings = read(config)
        settings = self.settings.training
        self.state = TrainingState(torch.Generator().manual_seed(config["seed"]), settings.warmup_epochs)
        self.hardening = Hardening()
        self.arguments, self.fits, self.saves = FitArguments(None), 0, True
        self.fitted: Any = None  # what the last fit of RecBole's, or of the user's own, returned
        self.plain_model: Mapping[str, Any] | None = None
        self.callbacks: list[Callback] = [Saving(), self.hardening, warm_up.WarmUp(), RadiusSearching()]
        self.hardens = settings.defense != "none"
        self.perturbable = perturbable(self)
        self.hardens = self.hardens and self.perturbable
        tell_defense(self)
        if self.hardens:
            check_scored(settings, model)
        if self.hardens and self.pretraining and settings.pretraining:
            warm_up.check_pretraining(config, settings.warmup_epochs)
        if self.hardens and self._pretrains_plainly:
            self.logger.info("Pretraining is plain; rawp_pretraining=True hardens it, too.")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        watch(cls)

    @property
    def objective(self) -> Objective | None:
        """The hardened loss; None before the first epoch that has it."""
        return self.hardening.objective

    @property
    def pretraining(self) -> bool:
        """Whether the model is in a run before the one that counts (S3Rec, RaCT)."""
        return quirks.pretraining(self.model)

    @property
    def _pretrains_plainly(self) -> bool:
        """Whether this is pretraining, and it is not to be hardened."""
        return self.pretraining and not self.settings.training.pretraining

    @property
    def defense(self) -> str:
        """The defense that this training has."""
        return self.settings.training.defense if self.hardens and not self._pretrains_plainly else "none"

    @property
    def hardens_now(self) -> bool:
        """Whether this training is to be hardened, after plain epochs or none."""
        return self.hardens and not self._pretrains_plainly

    @property
    def trains_plain_model(self) -> bool:
        """Whether this is the plain training by which a radius is found."""
        search = self.state.search
        return search is not None and (not search.trained_plainly or search.settling > 0)

    def log(self, text: str) -> None:
        """Log a line where `fit` was asked to."""
        if self.arguments.verbose:
            self.logger.info(text)

    def fit(self, train_data: Any, valid_data: Any = None, *rest: Any, **options: Any) -> Any:
        """Train as RecBole does; its signature, and the clean valid score and result of the final model.

        A `fit` of the user's own may have the `rest` in another order, and take other `options`: they are passed on.

        With `rawp_radius: auto`, train plainly first, and go on from there. From what a killed run left, go on.

        Raises:
            InputError: if no hardened model would be kept, if a radius is to be found and there are no valid data, or
                if the user's own loop or `fit` lets nothing be hardened, unless the trainer is `lenient`.
        """
        if self.perturbable:  # RecBole's own run brings the data as late as this
            vocabulary.note(self.model, self.config, getattr(train_data, "_dataset", None))
        self.fits += 1
        options = named(super().fit, rest, options, FIT, behind=2)
        callback_fn = options.pop("callback_fn", None)
        self.arguments = FitArguments.of(train_data, valid_data, options)
        self.config[fingerprint.KEY] = fingerprint.of(train_data, valid_data)  # so that each checkpoint tells
        if self.state.stage == 3:
            self.state.begin_again()
        self.fitted = None
        for callback in self.callbacks:
            callback.on_train_begin(self)
        self.go_on()
        if self.hardens or self.fitted is None:  # else it cannot be hardened, and the plain training is over
            keeps = any(callback.keeps_best(self) for callback in self.callbacks)
            self.recboles_fit(saved=self.arguments.saved and not keeps, callback_fn=callback_fn)
        for callback in reversed(self.callbacks):
            callback.on_train_end(self)
        changed = self.hardens or self.state.progress is not None
        return (self.best_valid_score, self.best_valid_result) if changed else self.fitted

    def recboles_fit(self, *, saved: bool, callback_fn: Any = None) -> None:
        """Run RecBole's fit, or the user's own, with the arguments of ours that it takes; its time counts.

        Args:
            saved: whether it is to save the best model.
            callback_fn: the user's, called after our callbacks at each validation.
        """

        def validated(epoch: int, score: float) -> None:
            """Tell all callbacks, which may save what the fit may not."""
            self.saves = True
            for callback in self.callbacks:
                callback.on_validation(self, epoch, score)
            self.saves = saved
            if callback_fn:
                callback_fn(epoch, score)

        given, fit = self.arguments, super().fit
        self.state.start_clock()
        options = {"verbose": given.verbose, "saved": saved, "show_progress": given.show_progress}
        options = taken(fit, options | {"callback_fn": validated})
        self.saves = saved
        with kept_apart(self):
            self.fitted = fit(given.train_data, given.valid_data, **options, **given.more)
        self.saves = True
        self.state.count_seconds()

    @contextmanager
    def only_loss(self, wrap: Callable[[LossFunction], LossFunction]) -> Iterator[None]:
        """Let epochs minimise `wrap(loss)`, whatever hooks into them otherwise."""
        callbacks, self.callbacks = self.callbacks, [OtherLoss(wrap)]
        try:
            yield
        finally:
            self.callbacks = callbacks

    def refused(self, error: ValueError) -> bool:
        """Tell whether an epoch that failed only shows that a radius is too large."""
        return refuse(self, error)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save as RecBole does; the file tells the defense that its model had so far.

        Where a hardened training keeps the best model itself, a `fit` of the user's own saves none.
        """
        if self.hardens and not self.saves:
            return
        plain = self.settings.training.defense != "none" and not (self.state.hardened or self.state.progress)
        with self.called_plain() if plain else nullcontext():
            super()._save_checkpoint(epoch, verbose, **kwargs)

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, Any]:
        validate = super()._valid_epoch
        score, self.state.valid_result = validate(valid_data, **taken(validate, {"show_progress": show_progress}))
        return score, self.state.valid_result

    def take_plain_model(self, content: Mapping[str, Any]) -> None:
        """Let a search for the radius go on from a checkpoint's model, which this one is: no plain training."""
        self.plain_model = content

    def skip_stage_1(self) -> None:
        """Let `fit` take the model as it is: for the best one of stage 1."""
        self.start_epoch, self.state.stage = self.epochs, 2


class RAWPFTTrainer(RAWPTrainer):
    """Both stages of RAWP-FT: `fit` trains (stage 1), then ranks the modules and repairs the weakest (stage 2).

    Stage 2 runs where `ft_rounds` is above 0 (as `defense: rawp_ft` sets it) and valid data are given. It starts from
    stage 1's best weights, which stay beside the checkpoint as `*-stage1.pth`; the repaired model becomes the best one.
    """

    def __init__(self, config: Config, model: nn.Module, *rest: Any, **options: Any) -> None:
        super().__init__(config, model, *rest, **options)
        if self.fine_tuning.rounds and not config["single_spec"]:
            raise InputError("ft_rounds: stage 2 runs in one process. Leave nproc out, or set ft_rounds=0.")
        self.callbacks.insert(1, Stage2())  # after what saves the state, which so comes after it in the end

    @property
    def fine_tuning(self) -> FineTuning:
        """The settings of stage 2: with the radius that a search found, and what its budget leaves of tolerance."""
        found, settings = self.state.search, self.settings
        if found is None or found.chosen is None:
            return settings.fine_tuning
        return with_found(settings.fine_tuning, found, settings.values)

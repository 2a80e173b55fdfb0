"""How does stage 2 follow stage 1 in RecBole's fit?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole.config import Config
from torch import nn

from recbole_rawp import files
from recbole_rawp.config import settings as options
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.training import resume
from recbole_rawp.training.radius import searching
from recbole_rawp.training.stage2 import repair
from recbole_rawp.training.stage2.progress import Progress
from recbole_rawp.training.trainer import RAWPTrainer


class RAWPFTTrainer(RAWPTrainer):
    """Both stages of RAWP-FT: `fit` trains (stage 1), then ranks the modules and repairs the weakest (stage 2).

    Stage 2 runs where `ft_rounds` is above 0 (as `defense: rawp_ft` sets it) and valid data are given. It starts from
    stage 1's best weights, which stay beside the checkpoint as `*-stage1.pth`; the repaired model becomes the best one.

    Attributes:
        progress: what stage 2 saw and chose (`progress.Progress`); None before it.
        skip_stage_1: set to repair the model as it is.
    """

    def __init__(self, config: Config, model: nn.Module) -> None:
        super().__init__(config, model)
        self.fine_tuning = options.fine_tuning(config)
        if self.fine_tuning.rounds and not config["single_spec"]:
            raise InputError("ft_rounds: stage 2 runs in one process. Leave nproc out, or set ft_rounds=0.")
        if self.fine_tuning.rounds and self.perturbable and not self.hardens:
            options.check_radius_known(config)
        self.progress: Progress | None = None
        self.skip_stage_1 = False

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Any = None,
    ) -> tuple[float, Any]:
        """Train and repair; RecBole's signature, and the clean valid score and result of the final model."""
        state = self.resumed or {"stage": 2 if self.skip_stage_1 else 1}
        if self.skip_stage_1:
            self.start_epoch = self.epochs
        if valid_data and self.start_epoch >= self.epochs and self._repairs(valid_data):  # no search will find it
            options.check_radius_known(self.config)
        first = state["stage"] == 1  # else RecBole's fit has no epoch left, and prepares its loaders and metrics
        note = self._note_best(saved, callback_fn)
        super().fit(train_data, valid_data, verbose, saved and first, show_progress, note)
        if self.search is not None:  # the report of a finished run says it, too
            self.fine_tuning = searching.with_found(self.fine_tuning, self.search, options.values(self.config))
        if state["stage"] < 3 and self._repairs(valid_data):
            if first:
                self._load_best(saved)
            number = max(self.train_loss_dict, default=self.start_epoch - 1) + 1
            repair = resume.moved(state.get("repair") or {"start_epoch": number}, self.device)
            self.progress = Progress(**repair)
            self._repair(train_data, valid_data, saved, verbose, show_progress)
        elif state["stage"] == 3 and state["repair"]:
            self.progress = Progress(**state["repair"])
        self._save_state(3)
        return self.best_valid_score, self.best_valid_result

    def _repairs(self, valid_data: Any) -> bool:
        """Tell whether stage 2 is due."""
        if not self.fine_tuning.rounds or not self.perturbable or self.pretraining:
            return False
        if not valid_data:
            self.logger.warning("Stage 2 is skipped: it chooses by valid data, and there are none.")
        return bool(valid_data)

    def _note_best(self, saved: bool, callback_fn: Any) -> Any:
        """Return RecBole's callback: it keeps the best weights where no file does, and calls the user's."""

        def note(epoch: int, score: float) -> None:
            """Keep the weights if this validation was the best so far; a search keeps those it chooses."""
            if self.search is None and self.cur_step == 0 and not saved and self.fine_tuning.rounds:
                self.best_weights = resume.copied(self.model.state_dict())
            if callback_fn:
                callback_fn(epoch, score)

        return note

    def _load_best(self, saved: bool) -> None:
        """Load stage 1's best weights, and keep its checkpoint beside the one to come."""
        if saved:
            checkpoint.load_into(self.model, checkpoint.read(self.saved_model_file, self.device))
            file = Path(self.saved_model_file)
            files.copy(file, file.with_stem(f"{file.stem}-stage1"))
        elif self.best_weights is not None:
            checkpoint.load_into(self.model, {"state_dict": self.best_weights})
            self.best_weights = None

    def _repair(self, train_data: Any, valid_data: Any, saved: bool, verbose: bool, show_progress: bool) -> None:
        """Run stage 2; the repaired model becomes the best one."""
        assert self.progress is not None
        repair.repair(
            self,
            train_data,
            valid_data,
            weights=perturbed_weights(self.model, self.fine_tuning.target),
            settings=self.fine_tuning,
            progress=self.progress,
            save=lambda: self._save_state(2),
            log=self.logger.info if verbose else lambda text: None,
            show_progress=show_progress,
        )
        self.best_valid_score, self.best_valid_result = self._valid_epoch(valid_data, show_progress)
        if saved:
            self._save_checkpoint(self.progress.start_epoch - 1, verbose)

    def _more_state(self) -> dict[str, Any]:
        return super()._more_state() | {"repair": None if self.progress is None else vars(self.progress)}

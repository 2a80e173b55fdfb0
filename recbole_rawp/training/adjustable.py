"""RecBole's Trainer, whose own attributes change by methods that say why; and what its checkpoints lack is mended."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.trainer.trainer import Trainer
from recbole.utils import set_color
from torch.utils.tensorboard import SummaryWriter

from recbole_rawp import files
from recbole_rawp.core.overlay import clear_caches, drop_cached_weights
from recbole_rawp.host import quirks
from recbole_rawp.training.seams.calls import EVALUATE, named, taken

LIMITS = ("start_epoch", "epochs", "eval_step", "stopping_step")
COUNTERS = (*LIMITS, "cur_step", "best_valid_score", "best_valid_result", "train_loss_dict")


class AdjustableTrainer(Trainer):
    """RecBole's Trainer with the changes that a hardened training makes to its attributes."""

    tensorboard: SummaryWriter
    saved_model_file: str
    notes_digests = False  # of checkpoints, in a file beside them: in folders of ours

    def counters(self) -> dict[str, Any]:
        """Return the counters of RecBole's loop."""
        return {name: getattr(self, name) for name in COUNTERS}

    def set_counters(self, counters: Mapping[str, Any]) -> None:
        """Let RecBole's loop go on from these counters."""
        for name in COUNTERS:
            setattr(self, name, counters[name])

    def forget_best(self) -> None:
        """Let no model so far be the best, and no patience be used up."""
        self.cur_step = 0
        self.best_valid_score = -math.inf if self.valid_metric_bigger else math.inf

    def set_best(self, score: float, result: Any) -> None:
        """Let this be the valid score of the best model, and RecBole's result."""
        self.best_valid_score, self.best_valid_result = score, result

    def save_as_best(self, epoch: int, score: float) -> None:
        """Save the model as it is; the file tells its score, early stopping goes on by the highest one."""
        highest, self.best_valid_score = self.best_valid_score, score
        self._save_checkpoint(epoch, verbose=False)
        self.best_valid_score = highest

    def limit_loop(self, *, start_epoch: int, epochs: int, eval_step: int, stopping_step: int) -> dict[str, int]:
        """Let RecBole's next loop begin, end, validate and stop early so; return what it would have done."""
        before = {name: getattr(self, name) for name in LIMITS}
        self.start_epoch, self.epochs = start_epoch, epochs
        self.eval_step, self.stopping_step = eval_step, stopping_step
        return before

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the attributes that are optimizers; two names may hold one (RecVAE)."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.optim.Optimizer)}

    def set_optimizers(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Let the attributes of these names be these optimizers."""
        for name, optimizer in optimizers.items():
            setattr(self, name, optimizer)

    @contextmanager
    def only_optimizer(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Let one optimizer take the place of all (RecVAE has three)."""
        originals = self.optimizers()
        self.set_optimizers(dict.fromkeys(originals, optimizer))
        try:
            yield
        finally:
            self.set_optimizers(originals)

    @contextmanager
    def tensorboard_beside(self, name: str) -> Iterator[None]:
        """Log to a folder of TensorBoard beside the usual one."""
        usual = self.tensorboard
        self.tensorboard = SummaryWriter(f"{usual.log_dir}-{name}")
        try:
            yield
        finally:
            self.tensorboard.close()
            self.tensorboard = usual

    def evaluate(self, eval_data: Any, *rest: Any, **options: Any) -> Any:
        """Evaluate as RecBole does; its signature and result, or those of the user's own."""
        evaluate = super().evaluate
        options = named(evaluate, rest, options, EVALUATE, behind=1)
        usual = taken(evaluate, {key: options.pop(key) for key in EVALUATE if key in options})
        with quirks.modules_kept(self.model):
            result = evaluate(eval_data, **usual, **options)
        for module in self.model.modules():
            drop_cached_weights(module)
        return result

    def resume_checkpoint(self, resume_file: str) -> None:
        """Load a RecBole checkpoint as RecBole does; the optimizer goes on training every weight."""
        with quirks.modules_kept(self.model):
            super().resume_checkpoint(resume_file)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save as RecBole does, but whole or not at all, and without caches of propagated embeddings."""
        clear_caches(self.model.modules())
        save, usual = super()._save_checkpoint, self.saved_model_file
        target = kwargs.pop("saved_model_file", usual)
        self.saved_model_file = partial = f"{target}.partial"  # RecBole's default, which a user's own need not take
        with files.complete(Path(target), Path(partial)):
            try:
                save(epoch, **taken(save, {"verbose": False}), **kwargs)
            finally:
                self.saved_model_file = usual
            if os.path.exists(partial):  # in distributed training only rank 0 writes
                (files.replace_noted if self.notes_digests else os.replace)(Path(partial), Path(target))
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {target}")

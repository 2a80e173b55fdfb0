"""Captures all that training changes, and puts it back: in memory, or in the file from which a killed run goes on.

That is the weights, the model's state outside them, every optimizer, every random generator, the counters of RecBole's
loop and the `TrainingState`. RecBole makes a new GradScaler in each epoch, so there is none to keep.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from recbole.config import Config
from torch import nn

from recbole_rawp.core import restoring
from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.batches import loader_generators
from recbole_rawp.host.data.fingerprint import KEY, differences
from recbole_rawp.training import resume
from recbole_rawp.training.adjustable import AdjustableTrainer
from recbole_rawp.training.callbacks import Callback, FitArguments
from recbole_rawp.training.outside_state import Outside, put_outside
from recbole_rawp.training.plain_values import copied, moved, plain

if TYPE_CHECKING:
    from recbole_rawp.training.hardening import Hardening
    from recbole_rawp.training.state import TrainingState

State = dict[str, Any]


class Saving(Callback):
    """Writes the state before each epoch, and when all is done; `seams.validations` does before each validation."""

    def on_epoch_begin(self, trainer: Any, train_data: Any, epoch: int) -> None:
        """Write the state before the epoch."""
        trainer.save_state(epoch)

    def on_train_end(self, trainer: Any) -> None:
        """Write that nothing is left to be done."""
        trainer.state.stage = 3
        trainer.save_state(trainer.epochs)


class ResumableTrainer(AdjustableTrainer):
    """A trainer whose training can stop at any moment, and go on.

    Attributes:
        resume_file: where the state is written before each epoch and validation; None (the default) writes none.
        killed: the state that a killed run left there, from which `fit` goes on; None after that.
        trained_before: that state, if its epoch was trained and not yet validated, until the loop begins.
    """

    state: TrainingState
    hardening: Hardening
    arguments: FitArguments

    def __init__(self, config: Config, model: nn.Module, *rest: Any, **options: Any) -> None:
        super().__init__(config, model, *rest, **options)
        clear_caches(model.modules())  # which also notes the parameters that it begins with
        self.outside = Outside(model)
        self.resume_file: Path | None = None
        self.killed: State | None = None
        self.trained_before: State | None = None
        self.fingerprint = ""

    def write_into(self, folder: Path, *, fingerprint: str | None = None, killed: State | None = None) -> None:
        """Save the best model as `model.pth` in a folder, and what a killed run needs, from which `fit` goes on.

        Args:
            folder: that of the run.
            fingerprint: of its settings; None: only the model is saved.
            killed: the state that a killed run left there.
        """
        self.saved_model_file = str(folder / "model.pth")
        self.notes_digests = fingerprint is not None
        if fingerprint is not None:
            self.fingerprint, self.resume_file, self.killed = fingerprint, folder / resume.NAME, killed

    def resume_checkpoint(self, resume_file: str) -> None:
        """Load a RecBole checkpoint as RecBole does; the optimizer goes on training every weight.

        That of a plain model counts as a warm-up: it is not the best of the hardened training that follows.
        """
        defense = checkpoint.read(resume_file)["config"]["defense"]  # read with care before RecBole reads it
        super().resume_checkpoint(resume_file)
        if defense in (None, "none"):  # as plain as a warm-up
            self.state.plain_until = max(self.state.plain_until, self.start_epoch)
        else:
            self.state.hardened = True

    def save_state(self, epoch: int, trained: tuple[int, Any] | None = None) -> None:
        """Write the state before an epoch, where it is wanted; RecBole's pretraining does not pass through `fit`.

        `trained` is that epoch, and what it returned, if it is over and only its validation is left.
        """
        if self.resume_file is None or self.pretraining:
            return
        if self.state.stage == 1:
            self.state.count_seconds()
        resume.write(self.resume_file, self.captured(epoch=epoch) | {"trained": plain(trained)})

    def go_on(self) -> None:
        """Restore what a killed run left, if there is something, and once."""
        killed, self.killed = self.killed, None
        if killed is not None:
            self.restore(killed)
            self.trained_before = killed if killed.get("trained") else None

    def trained(self) -> State:
        """Return what a batch changes, the model and its optimizers; tensors are not copied."""
        clear_caches(self.model.modules())
        optimizers = self.optimizers()
        own = {id(optimizer): name for name, optimizer in optimizers.items()}  # RecVAE's `optimizer` is this or that
        return {
            "weights": self.model.state_dict(),
            "outside": plain(self.outside.changed()),
            "optimizers": {name: optimizers[name].state_dict() for name in own.values()},
            "optimizer_names": {name: own[id(optimizer)] for name, optimizer in optimizers.items()},
        }

    def snapshot(self) -> State:
        """Return a copy of what a batch changes, which `put_trained` takes."""
        return dict(copied(self.trained()))

    def put_trained(self, trained: State) -> None:
        """Put model and optimizers into the state that `trained` returned, of this trainer or one made alike."""
        self.model.load_state_dict(trained["weights"])
        put_outside(self.model, moved(copied(trained["outside"]), self.device))
        clear_caches(self.model.modules())
        optimizers = self.optimizers()
        own = {id(optimizer): name for name, optimizer in optimizers.items()}
        for name, saved in trained["optimizers"].items():
            if own[id(optimizers[name])] == name:  # not the one that RecVAE had before its first epoch, and never used
                optimizers[name].load_state_dict(copied(saved))
        self.set_optimizers({name: optimizers[first] for name, first in trained["optimizer_names"].items()})

    def captured(self, *, epoch: int) -> State:
        """Return all that training changes, as it is before `epoch`; tensors are not copied."""
        return self.trained() | {
            "fingerprint": self.fingerprint,
            "data": self.config[KEY],
            "counters": plain(self.counters() | {"start_epoch": epoch}),
            "training": self.state.captured(),
            "generators": [generator.get_state() for generator in generators_of(self.arguments.loaders)],
            "rng": plain(restoring.rng_state()),
        }

    def restore(self, captured: State) -> None:
        """Put back all that was captured, of this trainer or one made alike, and its loaders' generators.

        Raises:
            InputError: if the data have changed, or if another version captured it.
        """
        then, now = captured.get("data"), self.config[KEY]
        if then and now and (changed := differences(then, now)):
            raise InputError(
                f"resume: the data have changed ({'; '.join(changed)}). Use those that the run began with."
            )
        try:
            self.put_trained(captured)
        except Exception as error:  # what does not fit may raise anything
            raise InputError(
                f"resume: the saved state does not fit the model on this data: {' '.join(str(error).split())} Use the "
                "data that the run began with."
            ) from error
        try:
            self.set_counters(captured["counters"])
            if captured["training"]["memory"] is not None:
                self.hardening.build(self)  # draws masks: their generator is put back next
            self.state.restore(captured["training"], self.device)
            put_generators(self.arguments.loaders, captured["generators"])
            python, numpy, cpu, cuda = captured["rng"]
            numpy = (numpy[0], numpy[1].numpy().astype(np.uint32), *numpy[2:])
            restoring.set_rng_state((python, numpy, cpu, cuda))
        except InputError:
            raise
        except Exception as error:  # what does not fit may raise anything
            raise InputError(
                f"resume: another version wrote the saved state, or it was edited ({type(error).__name__}: "
                f"{' '.join(str(error).split()).rstrip('.')}). Start a new run."
            ) from error


def generators_of(loaders: list[Any]) -> list[torch.Generator]:
    """Return the generators of RecBole's loaders."""
    return [generator for loader in loaders for generator in loader_generators(loader)]


def put_generators(loaders: list[Any], states: list[torch.Tensor]) -> None:
    """Put the generators of the loaders into these states.

    Raises:
        InputError: if these are more or fewer.
    """
    if not states:  # RecBole took them when it saved the loaders, which come back with new ones
        for loader in loaders:
            loader.generator = loader.sampler.generator = None
    generators = generators_of(loaders)
    if len(generators) != len(states):
        raise InputError(
            f"resume: the saved state has {len(states)} random generators of data loaders, this run {len(generators)}. "
            "Use the RecBole that the run began with."
        )
    for generator, saved in zip(generators, states):
        generator.set_state(saved)

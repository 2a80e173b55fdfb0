"""The quirks of single models of RecBole: a file for each, which registers itself; the functions here ask them all.

May import: `core`, RecBole. Must not enter: what every model needs. A quirk of a new model is one new file; what it
imports or begins from is said in `host.config` and `host.vocabulary`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.errors import InputError
from recbole_rawp.host.quirks.registry import QUIRKS, quirks_of

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")


def check_settings(config: Any) -> None:
    """Raise InputError for settings that their model would take and should not."""
    for quirk in QUIRKS:
        quirk.check_settings(config)


def training_loss(model: Any) -> Callable[..., Any]:
    """Return the loss of a model's recommendation task, which some keep apart from others of theirs."""
    loss = model.calculate_loss
    for quirk in quirks_of(model):
        loss = quirk.loss(model, loss)
    return loss


def counted(trainer: Any, loss: Callable[..., Any], epoch: int) -> Callable[..., Any]:
    """Return the loss with 0 for a part that the trainer's loop drops in that epoch, so that no delta climbs it."""
    for quirk in quirks_of(trainer.model):
        loss = quirk.counted(trainer, loss, epoch)
    return loss


def settle(model: nn.Module) -> None:
    """Bring up to date what a model holds beside weights that are there to stay, as after an epoch of training.

    Cached embeddings go. An overlay leaves the rest alone: it is the trained model's, like a weight that is not
    perturbed.
    """
    clear_caches(model.modules())
    for quirk in quirks_of(model):
        quirk.settle(model)


def check_built(model: Any) -> None:
    """Raise InputError if a model was built with settings with which it cannot train, or of what we cannot change."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"model: {name or 'all'} of {type(model).__name__} is TorchScript, in which no weight can be changed. "
                "Build it without torch.jit.script."
            )
    for quirk in quirks_of(model):
        quirk.check(model)


def pretraining(model: Any) -> bool:
    """Tell whether the model is in a run before the one that counts (S3Rec, RaCT): not scored, not repaired."""
    return any(quirk.pretrains(model) for quirk in quirks_of(model))


@contextmanager
def modules_kept(model: Any) -> Iterator[None]:
    """Let RecBole load a checkpoint into the model's own modules.

    RecBole swaps whole modules in from the checkpoint (SASRecF, FDSA, GRU4RecF, DIN, DIEN), which its optimizer does
    not hold: they would silently stop training. Their weights are in the state_dict too, so nothing is missed.
    Embeddings that the model cached before the load are forgotten, and what is in no checkpoint is made anew.
    """

    def load_other_parameter(parameters: dict[str, Any] | None) -> None:
        """Load the other parameters, modules left out."""
        rest = {name: value for name, value in (parameters or {}).items() if not isinstance(value, nn.Module)}
        type(model).load_other_parameter(model, rest)
        settle(model)
        for quirk in quirks_of(model):
            quirk.after_load(model)

    model.load_other_parameter = load_other_parameter
    try:
        yield
    finally:
        del model.load_other_parameter

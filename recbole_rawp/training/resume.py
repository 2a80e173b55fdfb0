"""Reads and writes what a killed run goes on from, `resume.pt`, and the settings beside it.

The file holds tensors, numbers and strings only, so that it loads with `weights_only=True`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from recbole_rawp.errors import InputError
from recbole_rawp.files import whole

State = dict[str, Any]
NAME = "resume.pt"
BATCH = "eval_batch_size"
FREE = (  # do not change the result; that one only where scoring draws random numbers
    *("state", "show_progress", "data_path", "gpu_id", "rawp_output_dir"),
    *(BATCH, "log_wandb", "wandb_project"),
)
KEYS = (
    "fingerprint",
    "counters",
    "training",
    "weights",
    "outside",
    "optimizers",
    "optimizer_names",
    "generators",
    "rng",
)


def write(file: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    whole(file, lambda path: torch.save(state, path))


def read(file: Path, fingerprint: str) -> State | None:
    """Read a state; nothing in the file is executed. None where there is no file: the run was killed before its first.

    Raises:
        InputError: if it is damaged, or of a run with other settings.
    """
    if not file.exists():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        theirs = {key: state[key] for key in KEYS}["fingerprint"]
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise InputError(
            f"resume: '{file}' is damaged ({type(error).__name__}). Start a new run; model.pth beside it, if there is "
            "one, holds the best model so far."
        ) from error
    if theirs != fingerprint:
        raise InputError(
            f"resume: '{file}' belongs to a run with other settings than settings.yaml beside it. Put the settings "
            "back, or start a new run."
        )
    return state

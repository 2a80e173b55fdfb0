"""Reads and writes what a killed run goes on from, `resume.pt`, and the settings beside it.

The file holds tensors, numbers and strings only, so that it loads with `weights_only=True`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from recbole_rawp.errors import InputError
from recbole_rawp.files import DIGESTS, digest, digests, whole

State = dict[str, Any]
NAME = "resume.pt"
BATCH = "eval_batch_size"
FREE = (  # do not change the result; that one only where scoring draws random numbers
    *("state", "show_progress", "data_path", "gpu_id", "rawp_output_dir"),
    *(BATCH, "log_wandb", "wandb_project"),
)
KINDS: dict[str, Any] = {
    "fingerprint": str,
    "counters": dict,
    "training": dict,
    "weights": dict,
    "outside": dict,
    "optimizers": dict,
    "optimizer_names": dict,
    "generators": list,
    "rng": (list, tuple),
}
NEW = "Start a new run; model.pth beside it, if there is one, holds the best model so far."


def write(file: Path, state: State) -> None:
    """Write the state, whole or not at all, and note its digest."""
    whole(file, lambda path: torch.save(state, path), noted=True)


def read(file: Path, fingerprint: str) -> State | None:
    """Read a state; nothing in the file is executed. None where there is no file: the run was killed before its first.

    Raises:
        InputError: if it is damaged, not what the run wrote, or of a run with other settings.
    """
    known = digests(file.parent).get(file.name)
    if not file.exists() and known is None:
        return None
    if known is not None and (not file.is_file() or digest(file) not in known):
        raise InputError(
            f"resume: '{file}' {'is damaged or was changed' if file.exists() else 'is gone'}: it is not what its run "
            f"wrote (see {DIGESTS} beside it). {NEW}"
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        check(state)
    except Exception as error:  # what a damaged file raises is anybody's guess
        raise InputError(
            f"resume: '{file}' is damaged ({type(error).__name__}: {' '.join(str(error).split())[:90]}). {NEW}"
        ) from error
    if state["fingerprint"] != fingerprint:
        raise InputError(
            f"resume: '{file}' belongs to a run with other settings than settings.yaml beside it. Put the settings "
            "back, or start a new run."
        )
    return dict(state)


def check(state: Any) -> None:
    """Raise an error for a state that no run wrote: for parts that are missing, or of another kind."""
    for key, kind in KINDS.items():
        if not isinstance(state[key], kind):
            raise TypeError(f"{key} is {type(state[key]).__name__}")
    counters = state["counters"]
    for key in ("start_epoch", "epochs", "eval_step", "stopping_step", "cur_step"):
        if type(counters[key]) is not int or counters[key] < 0:
            raise ValueError(f"{key} is {counters[key]!r}")
    if type(counters["best_valid_score"]) not in (int, float) or math.isnan(counters["best_valid_score"]):
        raise ValueError(f"best_valid_score is {counters['best_valid_score']!r}")
    if state["training"]["stage"] not in (1, 2, 3):
        raise ValueError(f"stage is {state['training']['stage']!r}")
    if not all(isinstance(weight, torch.Tensor) for weight in state["weights"].values()):
        raise TypeError("weights hold what is no tensor")

"""Reads and writes what a killed run goes on from, `resume.pt`, and the settings beside it.

The file holds tensors, numbers and strings only, so that it loads with `weights_only=True`.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from recbole.config import Config

from recbole_rawp.config import settings as options
from recbole_rawp.config.properties import defaults
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.errors import InputError
from recbole_rawp.files import whole
from recbole_rawp.host.config import RAWPConfig

State = dict[str, Any]
NAME = "resume.pt"
PLACES = ("rawp_output_dir", "attack_candidates")  # settings.yaml says the latter
FREE = ("state", "show_progress", "data_path", "gpu_id", "rawp_output_dir")  # do not change the result
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


def fingerprint(folder: Path, config: Config) -> str:
    """Return the digest of the settings in `folder` and of our options' values, defaults too."""
    ours = sorted((key, repr(config[key])) for key in OPTIONS if key not in PLACES)
    ours.append(("threats", repr(options.attack(config).threats)))  # a suite is a file, which may change
    return hashlib.sha256((folder / "settings.yaml").read_bytes() + repr(ours).encode()).hexdigest()


def settings(folder: Path, *, argv: Sequence[str] | None = None) -> RAWPConfig:
    """Return the settings of the run in `folder`; the command line may only add what does not change its result.

    Candidates that settings.yaml places relative to the folder, as a comparison does, are found wherever that lies.

    Raises:
        InputError: if there are none, or the command line differs from them.
    """
    file = folder / "settings.yaml"
    if not file.is_file():
        raise InputError(f"resume: '{folder}' holds no settings.yaml. Name the output folder of a run.")
    config = RAWPConfig(config_file_list=[str(file)], argv=argv)
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    written = {**defaults(written["model"], written["defense"], written), **written}
    shared = str(written["attack_candidates"])
    if shared.startswith("../") and (folder / shared).is_file():
        config["attack_candidates"] = os.path.normpath(folder / shared)
    for key, value in config.cmd_config_dict.items():
        if key not in FREE and value != written.get(key):
            raise InputError(
                f"{key}: {value!r}, but the run in '{folder}' has {written.get(key)!r}. A run goes on as it "
                f"began: leave --{key} out, or start a new run."
            )
    return config

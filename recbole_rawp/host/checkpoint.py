"""Reads checkpoints that RecBole saved. They are pickles, which can run code: trusted files only."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from torch import nn

from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.quirks import modules_kept
from recbole_rawp.host.quirks.pretraining import begun_from

KEYS = ("config", "state_dict", "epoch")


def read(file: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint that RecBole's Trainer saved, its tensors on `device`, and its `path`.

    Raises:
        InputError: if there is no such file, or it is damaged or something else.
    """
    path = Path(file).expanduser()
    if path.is_dir():
        raise InputError(f"checkpoint: '{file}' is a folder. Name a file in it, such as '{path / 'model.pth'}'.")
    if not path.is_file():
        raise InputError(f"checkpoint: there is no file '{file}'. Name a .pth file that RecBole saved.")
    try:
        content = torch.load(path, map_location=device, weights_only=False)
    except Exception as error:  # what a damaged pickle raises is anybody's guess
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise InputError(
            f"checkpoint: '{file}' cannot be read ({type(error).__name__}: {reason}); it is damaged or no checkpoint. "
            "Name a .pth file that RecBole saved."
        ) from error
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing or not isinstance(content["config"], Config):
        raise InputError(
            f"checkpoint: '{file}' is not a RecBole checkpoint ({', '.join(missing) or 'config'} missing). Name a .pth "
            "file that RecBole saved."
        )
    return content | {"path": str(path.resolve())}


def settings(
    checkpoint: Mapping[str, Any],
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    ours: Mapping[str, Any] | None = None,
    without: str | None = None,
    argv: Sequence[str] | None = None,
) -> RAWPConfig:
    """Return the checkpoint's settings; `ours`, then files, dictionary and command line (`argv`) win over them.

    Keys that begin with `without` are left out.

    Raises:
        InputError: if another model or dataset is asked for than the checkpoint holds.
    """
    theirs: Config = checkpoint["config"]
    with tempfile.TemporaryDirectory() as folder:  # as the first config file: those that are given come later and win
        first = Path(folder, "checkpoint.yaml")
        kept = {k: v for k, v in environment.settings(theirs).items() if not (without and k.startswith(without))}
        kept |= begun_from(theirs, checkpoint["path"]) | dict(ours or {})
        first.write_text(environment.as_yaml(kept), encoding="utf-8")
        config = RAWPConfig(None, None, [str(first), *(config_file_list or ())], config_dict, argv=argv)
    for key in ("model", "dataset"):
        if config[key] != theirs[key]:
            raise InputError(
                f"{key}: {config[key]} is asked for, but the checkpoint holds {theirs[key]}. Leave --{key} out."
            )
    return config


def resplit(theirs: Config, config: Config) -> str:
    """Say how `config` splits the data otherwise than a checkpoint's own settings; empty if it splits them alike."""
    one, other = split(theirs), split(config)
    return "; ".join(
        f"{key}: {other.get(key)}, trained with {one.get(key)}" for key in one if one[key] != other.get(key)
    )


def split(config: Config) -> dict[str, Any]:
    """Return what decides which interactions are test data."""
    if files := config["benchmark_filename"]:
        return {"test file": files[-1]}
    found = {f"eval_args {key}": config["eval_args"].get(key) for key in ("split", "order", "group_by")}
    return {"test file": None, **found} | ({"seed": config["seed"]} if found["eval_args order"] == "RO" else {})


def load_into(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into `model`, whose modules stay its own.

    Raises:
        InputError: if they do not fit: the data are not those that the checkpoint was trained on.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split("\n")[1:2]).strip().rstrip(".")
        raise InputError(
            f"checkpoint: its weights do not fit the model on this data ({reason}). Use the data and options it was "
            "trained with: --data_path names another folder."
        ) from error
    with modules_kept(model):
        model.load_other_parameter(checkpoint.get("other_parameter"))  # type: ignore[operator]

"""Reads checkpoints that RecBole saved. They are pickles, which can run code: only what RecBole's are made of loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from torch import nn

from recbole_rawp import files
from recbole_rawp.errors import InputError
from recbole_rawp.host import unpickling
from recbole_rawp.host.quirks import modules_kept

KEYS = ("config", "state_dict", "epoch")


def read(file: str | Path, device: Any = "cpu") -> dict[str, Any]:
    """Return the content of a checkpoint that RecBole's Trainer saved, its tensors on `device`, and its `path`.

    Raises:
        InputError: if there is no such file, or it is damaged or something else, or holds what is not admitted
            (`unpickling`).
    """
    path = Path(file).expanduser()
    if path.is_dir():
        raise InputError(f"checkpoint: '{file}' is a folder. Name a file in it, such as '{path / 'model.pth'}'.")
    if not path.is_file():
        raise InputError(f"checkpoint: there is no file '{file}'. Name a .pth file that RecBole saved.")
    check_digest(path)
    try:
        content = torch.load(path, map_location=device, weights_only=False, pickle_module=unpickling.PICKLE)
    except unpickling.NotAdmitted as error:
        raise InputError(
            f"checkpoint: '{file}' holds {error}, which no RecBole checkpoint needs, and loading it may run code. If "
            "you trust the file, say --trust_checkpoint."
        ) from error
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


def check_digest(path: Path) -> None:
    """Raise InputError if a file is another one than the run wrote into its folder."""
    known = files.digests(path.parent).get(path.name)
    if known and files.digest(path) not in known:
        raise InputError(
            f"checkpoint: '{path}' is not what its run wrote (see {files.DIGESTS} beside it): it is damaged or was "
            "changed. To use it all the same, copy it into another folder."
        )


def check_folder(folder: Path) -> None:
    """Read the checkpoints in a run's folder, and those that it tells of, before it goes on; InputError as `read`."""
    for name in sorted({*files.digests(folder), *(path.name for path in folder.glob("*.pth"))}):
        read(folder / name)


def load_into(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into `model`, whose modules stay its own.

    Raises:
        InputError: if they do not fit: the data are not those that the checkpoint was trained on.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError) as error:  # TypeError: no dictionary at all
        lines = str(error).split("\n")
        reason = " ".join(lines[1:2] or lines).strip().rstrip(".")
        raise InputError(
            f"checkpoint: its weights do not fit the model on this data ({reason}). Use the data and options it was "
            "trained with: --data_path names another folder."
        ) from error
    with modules_kept(model):
        model.load_other_parameter(checkpoint.get("other_parameter"))  # type: ignore[operator]

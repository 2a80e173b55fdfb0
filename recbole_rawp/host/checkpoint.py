"""Reads checkpoints that RecBole saved. They are pickles, which can run code: only what RecBole's are made of loads."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from torch import nn

from recbole_rawp import files
from recbole_rawp.errors import InputError
from recbole_rawp.host import unpickling
from recbole_rawp.host.data import fingerprint
from recbole_rawp.host.quirks import modules_kept

SETTINGS = ("internal_config_dict", "external_config_dict", "final_config_dict")  # of RecBole's Config
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
        raise InputError(unpickling.refusal(file, error)) from error
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
    if wrong := odd(content):
        raise InputError(
            f"checkpoint: '{file}': {wrong}. It was edited, or something else wrote it. Name a .pth file that RecBole "
            "saved."
        )
    return content | {"path": str(path.resolve())}


def odd(content: Mapping[str, Any]) -> str:
    """Return what a checkpoint holds that neither RecBole nor we write into one; empty if all is as they write it."""
    config, state = content["config"], content["state_dict"]
    if not all(isinstance(vars(config).get(name), dict) for name in SETTINGS):
        return "its config has no settings"
    for key in ("model", "dataset"):
        if not isinstance(config[key], str):
            return f"its config has {key} {config[key]!r}"
    if not isinstance(config["eval_args"], (dict, type(None))):
        return f"its config has eval_args {config['eval_args']!r}"
    if not fingerprint.is_one(config[fingerprint.KEY]):
        return f"its {fingerprint.KEY} is none"
    if not isinstance(state, Mapping) or not all(map(is_weight, state.keys(), state.values())):
        return "its state_dict holds what is no weight"
    if not isinstance(content["epoch"], Integral) or isinstance(content["epoch"], bool):  # numpy's count, too
        return f"its epoch is {content['epoch']!r}"
    if not isinstance(content.get("other_parameter"), (dict, type(None))):
        return "its other_parameter is no mapping"
    return ""


def is_weight(name: Any, value: Any) -> bool:
    """Tell whether an entry may stand in torch's state_dict: a tensor, or what a module adds by itself."""
    return isinstance(name, str) and (isinstance(value, torch.Tensor) or name.endswith("_extra_state"))


def check_digest(path: Path) -> None:
    """Raise InputError if a file is another one than the run wrote into its folder."""
    known = files.digests(path.parent).get(path.name)
    if known is not None and files.digest(path) not in known:
        raise InputError(
            f"checkpoint: '{path}' is not what its run wrote (see {files.DIGESTS} beside it): it is damaged or was "
            "changed. To use it all the same, copy it into another folder."
        )


def check_folder(folder: Path) -> None:
    """Read the checkpoints in a run's folder, and those that it tells of, before it goes on; InputError as `read`."""
    noted = [name for name in files.digests(folder) if name.endswith(".pth")]
    for name in sorted({*noted, *(path.name for path in folder.glob("*.pth"))}):
        read(folder / name)


def load_into(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into `model`, whose modules stay its own.

    Raises:
        InputError: if they do not fit: the data are not those that the checkpoint was trained on; or if they hold NaN.
    """
    check_kinds(model, checkpoint["state_dict"])
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
    check_finite(model)


def check_kinds(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise InputError if weights are of another kind than the model's: torch would cut off what these cannot hold."""
    for name, own in model.state_dict().items():
        theirs = state.get(name, own)
        if not isinstance(own, torch.Tensor) or not isinstance(theirs, torch.Tensor):  # a module's extra state
            continue
        if (theirs.is_floating_point(), theirs.is_complex()) != (own.is_floating_point(), own.is_complex()):
            raise InputError(
                f"checkpoint: its {name} is of {theirs.dtype}, and the model's of {own.dtype}. Name a .pth file that "
                "RecBole saved."
            )


def check_finite(model: nn.Module) -> None:
    """Raise InputError, naming them, for weights that hold NaN or infinity: nothing can be ranked or hardened there."""
    if broken := not_finite(model):
        more = f" and {len(broken) - 1} more" * (len(broken) > 1)
        raise InputError(
            f"checkpoint: {broken[0]}{more} of its weights hold NaN or infinity: its training diverged, or the file "
            "was changed. Train it anew, say with a smaller learning_rate."
        )


def not_finite(model: nn.Module) -> list[str]:
    """Return the names of the weights that hold NaN, or infinity, which a frozen mask may hold."""
    return [name for name, weight in model.named_parameters() if not finite(weight)]


def finite(weight: nn.Parameter) -> bool:
    """Tell whether a weight holds what training can leave behind."""
    return bool((torch.isfinite(weight) if weight.requires_grad else ~torch.isnan(weight)).all())

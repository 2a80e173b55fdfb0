"""Finds the plain twin of a hardened model among the files beside it, so that attacks on it can be carried over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from recbole_rawp.core.ball import Weights
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint

PLAIN = ("baseline/model.pth", "model-plain.pth", "original.pth")  # where `train`, `rawp_radius: auto`, `harden` put it
STAGE_1 = "model-stage1.pth"


def twins_of(folder: Path, model: nn.Module, config: Any) -> dict[str, Weights]:
    """Return name -> all weights of the models that are kept with the one in `folder` and have its shapes.

    Those are the plain one of the same run, or of the same comparison and seed, and the one before its repair.
    """
    plain = "-".join(map(str, (config["model"], config["dataset"], "none", config["seed"])))
    places = {f"plain ({name})": folder / name for name in PLAIN}
    places["before repair"] = folder / STAGE_1
    if folder.name != plain:
        places[f"plain ({plain})"] = folder.parent / plain / "model.pth"
    found = {}
    for name, place in places.items():
        weights = weights_in(place, model) if place.is_file() else None
        if weights is not None:
            found[name] = weights
    return found


def weights_in(file: Path, model: nn.Module) -> Weights | None:
    """Return the weights in a checkpoint by the names of the model's; None if it is not of the same shapes."""
    try:
        content = checkpoint.read(file)
    except InputError:
        return None
    state = content["state_dict"]
    own = dict(model.named_parameters())
    if any(name not in state or state[name].shape != weight.shape for name, weight in own.items()):
        return None
    return {name: state[name].to(weight.device) for name, weight in own.items()}


def other_weights(model: nn.Module, config: Any, file: str) -> Weights:
    """Return the weights in a checkpoint of the same model on the same data.

    Raises:
        InputError: if there is none, or it is of another model or data set, or its weights have other names or shapes.
    """
    try:
        theirs = checkpoint.read(file)["config"]
    except InputError as error:
        raise InputError(f"attack_checkpoint: {str(error).removeprefix('checkpoint: ')}") from error
    for key in ("model", "dataset"):
        if theirs[key] != config[key]:
            raise InputError(
                f"attack_checkpoint: '{file}' holds {theirs[key]}, and this {key} is {config[key]}. Name another "
                "checkpoint of the same model on the same users and items."
            )
    found = weights_in(Path(file).expanduser(), model)
    if found is None:
        raise InputError(
            f"attack_checkpoint: the weights in '{file}' are not of the same names and shapes as this model's. Name "
            "another checkpoint of the same model on the same users and items."
        )
    return found


def differ(model: nn.Module, weights: Weights) -> bool:
    """Tell whether these are other weights than the model has."""
    return not all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())

"""How does a killed run go on?

`resume.pt` holds tensors, numbers and strings only, so that it loads with `weights_only=True`: the weights, the model's
state outside them, every optimizer, every random generator and the counters of RecBole's loop. It is written before
each epoch. RecBole makes a new GradScaler in each epoch, so there is none to keep.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config

from recbole_rawp.config import settings as options
from recbole_rawp.config.properties import defaults
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.core import restoring
from recbole_rawp.core.overlay import clear_caches
from recbole_rawp.errors import InputError
from recbole_rawp.files import whole
from recbole_rawp.host.batches import loader_generators
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.training.outside_state import Outside, copied, moved, plain, put_outside

State = dict[str, Any]
NAME = "resume.pt"
PLACES = ("rawp_output_dir", "attack_candidates")  # settings.yaml says the latter
FREE = ("state", "show_progress", "data_path", "gpu_id", "rawp_output_dir")  # do not change the result
KEYS = (
    *("fingerprint", "stage", "counters", "weights", "outside", "optimizers", "optimizer_names", "generators"),
    *("masks", "objective", "omega", "rng", "search", "repair"),
)
COUNTERS = (
    *("start_epoch", "cur_step", "best_valid_score", "best_valid_result", "train_loss_dict"),
    *("plain_until", "seconds"),
)


def trained(trainer: Any, outside: Outside) -> State:
    """Return what training changes: the model and its optimizers; tensors are not copied."""
    clear_caches(trainer.model.modules())
    optimizers = optimizers_of(trainer)
    own = {id(optimizer): name for name, optimizer in optimizers.items()}  # RecVAE's `optimizer` is now this, now that
    return {
        "weights": trainer.model.state_dict(),
        "outside": outside.changed(),
        "optimizers": {name: optimizers[name].state_dict() for name in own.values()},
        "optimizer_names": {name: own[id(optimizer)] for name, optimizer in optimizers.items()},
    }


def put_trained(trainer: Any, state: State) -> None:
    """Put model and optimizers into the state that `trained` returned, of this trainer or one made alike."""
    trainer.model.load_state_dict(state["weights"])
    put_outside(trainer.model, moved(copied(state["outside"]), trainer.device))
    clear_caches(trainer.model.modules())
    optimizers = optimizers_of(trainer)
    own = {id(optimizer): name for name, optimizer in optimizers.items()}
    for name, saved in state["optimizers"].items():
        if own[id(optimizers[name])] == name:  # not the one that RecVAE had before its first epoch, and never used
            optimizers[name].load_state_dict(copied(saved))
    vars(trainer).update({name: optimizers[first] for name, first in state["optimizer_names"].items()})


def capture(trainer: Any, loaders: list[Any], outside: Outside, *, epoch: int) -> State:
    """Return the state of a trainer before `epoch`; its tensors are not copied."""
    return trained(trainer, outside) | {
        "fingerprint": trainer.fingerprint,
        "counters": plain({name: getattr(trainer, name) for name in COUNTERS} | {"start_epoch": epoch}),
        "generators": [generator.get_state() for loader in loaders for generator in loader_generators(loader)],
        "masks": trainer.generator.get_state(),
        "objective": None if trainer.objective is None else trainer.objective.adam.__dict__,
        "omega": trainer.measured_omega,
        "rng": plain(restoring.rng_state()),
    }


def restore(trainer: Any, loaders: list[Any], state: State) -> None:
    """Put a trainer and its loaders into the captured state.

    Raises:
        InputError: if the model is of another size: the data have changed.
    """
    try:
        put_trained(trainer, state)
    except RuntimeError as error:
        raise InputError(
            f"resume: the saved state does not fit the model on this data: {' '.join(str(error).split())} Use the data "
            "that the run began with."
        ) from error
    for name, value in state["counters"].items():
        setattr(trainer, name, value)
    trainer.measured_omega = state["omega"]
    if state["objective"] is not None:
        vars(trainer.build_objective().adam).update(moved(state["objective"], trainer.device))
    if not state["generators"]:  # RecBole took them when it saved the loaders, which come back with new ones
        for loader in loaders:
            loader.generator = loader.sampler.generator = None
    generators = [generator for loader in loaders for generator in loader_generators(loader)]
    if len(generators) != len(state["generators"]):
        raise InputError(
            f"resume: the saved state has {len(state['generators'])} random generators of data loaders, this run "
            f"{len(generators)}. Use the RecBole that the run began with."
        )
    for generator, saved in zip(generators, state["generators"]):
        generator.set_state(saved)
    trainer.generator.set_state(state["masks"])
    python, numpy, cpu, cuda = state["rng"]
    python = (python[0], tuple(python[1]), python[2])
    numpy = (numpy[0], numpy[1].numpy().astype(np.uint32), *numpy[2:])
    restoring.set_rng_state((python, numpy, cpu, cuda))


def optimizers_of(trainer: Any) -> dict[str, torch.optim.Optimizer]:
    """Return the trainer's attributes that are optimizers; two names may hold one (RecVAE)."""
    return {name: value for name, value in vars(trainer).items() if isinstance(value, torch.optim.Optimizer)}


def save(file: Path, state: State) -> None:
    """Write the state, whole or not at all."""
    whole(file, lambda path: torch.save(state, path))


def load(file: Path, fingerprint: str) -> State | None:
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


# --- the model's state outside its state_dict

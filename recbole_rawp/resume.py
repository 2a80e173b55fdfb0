"""How does a killed run go on?

`resume.pt` holds tensors, numbers and strings only, so that it loads with `weights_only=True`: the weights, the model's
state outside them, every optimizer, every random generator and the counters of RecBole's loop. It is written before
each epoch. RecBole makes a new GradScaler in each epoch, so there is none to keep.
"""

from __future__ import annotations

import hashlib
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config
from torch import nn

from recbole_rawp import preserve
from recbole_rawp import settings as options
from recbole_rawp.config import RAWPConfig
from recbole_rawp.defaults import defaults
from recbole_rawp.errors import InputError
from recbole_rawp.losses import loader_generators
from recbole_rawp.output import whole
from recbole_rawp.overlay import CACHES, clear_caches
from recbole_rawp.rules import RULES

State = dict[str, Any]
NAME = "resume.pt"
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
        "rng": plain(preserve.rng_state()),
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
    preserve.set_rng_state((python, numpy, cpu, cuda))


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
    ours = sorted((key, repr(config[key])) for key in RULES if key != "rawp_output_dir")
    ours.append(("threats", repr(options.attack(config).threats)))  # a suite is a file, which may change
    return hashlib.sha256((folder / "settings.yaml").read_bytes() + repr(ours).encode()).hexdigest()


def settings(folder: Path) -> RAWPConfig:
    """Return the settings of the run in `folder`; the command line may only add what does not change its result.

    Raises:
        InputError: if there are none, or the command line differs from them.
    """
    file = folder / "settings.yaml"
    if not file.is_file():
        raise InputError(f"resume: '{folder}' holds no settings.yaml. Name the output folder of a run.")
    config = RAWPConfig(config_file_list=[str(file)])
    written = yaml.safe_load(file.read_text(encoding="utf-8"))
    written = {**defaults(written["model"], written["defense"]), **written}
    for key, value in config.cmd_config_dict.items():
        if key not in FREE and value != written.get(key):
            raise InputError(
                f"{key}: {value!r}, but the run in '{folder}' has {written.get(key)!r}. A run goes on as it "
                f"began: leave --{key} out, or start a new run."
            )
    return config


# --- the model's state outside its state_dict


class Outside:
    """Watches the plain attributes and unsaved buffers of a model: what changed since construction is state.

    DiffRec's loss histories, MultiVAE's step counter, LINE's pair pointer, KGAT's attention matrix. Interaction
    matrices and graphs that never change are not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.first = {place: (value, mark(value)) for place, value in attributes(model)}

    def changed(self) -> State:
        """Return `module/attribute` -> value for what differs from the first look."""
        found = {}
        for place, value in attributes(self.model):
            before, then = self.first.get(place, (None, None))
            if before is not value or then != mark(value):
                found[place] = plain(value)
        return found


def attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield `module/attribute` and value of what may be state: tensors, arrays, numbers, words; no caches."""
    for path, module in model.named_modules():
        entries = {name: value for name, value in vars(module).items() if not name.startswith(("_", *CACHES))}
        entries |= {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        for name, value in entries.items():
            numeric = not isinstance(value, np.ndarray) or value.dtype.kind in "biufc"
            if name != "training" and numeric and (value is None or isinstance(value, STATE)):
                yield f"{path}/{name}", value


STATE = (torch.Tensor, np.ndarray, np.generic, int, float, str)


def mark(value: Any) -> Any:
    """Return what changes when the value changes in place."""
    if isinstance(value, torch.Tensor):
        return value._version
    if isinstance(value, np.ndarray):
        return zlib.crc32(value.tobytes())
    return value


def put_outside(model: nn.Module, state: State) -> None:
    """Put the values back: in place where shapes allow, for another module may hold the same tensor."""
    for place, value in state.items():
        path, _, name = place.rpartition("/")
        module = model.get_submodule(path)
        now = module._buffers.get(name, vars(module).get(name))
        if isinstance(now, np.ndarray):
            setattr(module, name, value.cpu().numpy().astype(now.dtype))
        elif isinstance(now, torch.Tensor) and now.layout is torch.strided and now.shape == value.shape:
            now.copy_(value)
        else:
            setattr(module, name, value)


def moved(value: Any, device: torch.device) -> Any:
    """Return the value with its tensors, also those in dictionaries, on `device`."""
    if isinstance(value, dict):
        return {key: moved(entry, device) for key, entry in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def copied(value: Any) -> Any:
    """Return the value with copies of its tensors, also those in containers, that stay as they are."""
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def plain(value: Any) -> Any:
    """Return the value in types that `weights_only=True` loads."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" else value)
    return value

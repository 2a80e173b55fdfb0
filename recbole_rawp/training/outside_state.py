"""Finds the state that a model keeps outside its state_dict, and puts it back."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_rawp.core.overlay import CACHES

State = dict[str, Any]


class Outside:
    """Watches the plain attributes and unsaved buffers of a model: what changed since construction is state.

    DiffRec's loss histories, MultiVAE's step counter, LINE's pair pointer, KGAT's attention matrix. Interaction
    matrices and graphs that never change are not kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.first = {path: (value, mark(value)) for path, value in attributes(model)}

    def changed(self) -> State:
        """Return `module/attribute` -> value for what differs from the first look."""
        found = {}
        for path, value in attributes(self.model):
            before, then = self.first.get(path, (None, None))
            if before is not value or then != mark(value):
                found[path] = value
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
    for path, value in state.items():
        owner, _, name = path.rpartition("/")
        module = model.get_submodule(owner)
        now = module._buffers.get(name, vars(module).get(name))
        if isinstance(now, np.ndarray):
            setattr(module, name, value.cpu().numpy().astype(now.dtype))
        elif isinstance(now, torch.Tensor) and now.layout is torch.strided and now.shape == value.shape:
            now.detach().copy_(value)
        else:
            setattr(module, name, value)

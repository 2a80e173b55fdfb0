"""What must an extra pass leave as it found it?  Random generators, and the model's state outside its weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

CLONE_LIMIT = 2**16  # entries; larger plain tensors are watched, not cloned (interaction histories, graphs)


def rng_state() -> tuple[Any, ...]:
    """Return the state of the generators of Python, numpy and torch (CPU, and CUDA where it is in use)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_rng_state(state: tuple[Any, ...]) -> None:
    """Put back what `rng_state` returned."""
    python, numpy, cpu, cuda = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def rng(others: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Put all generators, and the `others`, back afterwards, also after an error."""
    before, rest = rng_state(), [(generator, generator.get_state()) for generator in others]
    try:
        yield
    finally:
        set_rng_state(before)
        for generator, state in rest:
            generator.set_state(state)


@contextmanager
def state(model: nn.Module) -> Iterator[None]:
    """Let a pass change buffers and plain attributes of `model` freely, then put the originals back.

    Covers BatchNorm statistics, step counters (MultiVAE), loss histories (DiffRec), pair pointers (LINE). The pass
    works on copies and the original objects return, untouched: an autograd graph that saved them stays valid.

    Raises:
        RuntimeError: if the pass changed, in place, a plain tensor too large to be copied on every batch.
    """
    originals = [(module, dict(module._buffers), module.__dict__.copy()) for module in model.modules()]
    copies: dict[int, Any] = {}
    watched = []
    for module, buffers, attributes in originals:
        for name, buffer in buffers.items():
            module._buffers[name] = _copied(buffer, copies, limit=None)
        for name, value in attributes.items():
            if isinstance(value, (torch.Tensor, np.ndarray)) and not name.startswith("_"):
                copy = module.__dict__[name] = _copied(value, copies, limit=CLONE_LIMIT)
                if copy is value and isinstance(value, torch.Tensor):
                    watched.append((type(module).__name__, name, value, value._version))
    try:
        yield
    finally:
        for module, buffers, attributes in originals:
            module._buffers.update(buffers)
            if module.__dict__.keys() != attributes.keys():
                for name in module.__dict__.keys() - attributes.keys():
                    del module.__dict__[name]
            module.__dict__.update(attributes)
    for owner, name, value, version in watched:
        if value._version != version:
            raise RuntimeError(
                f"{owner}.{name} changed in place inside the loss and is too large to copy on each batch"
            )


def _copied(value: Any, copies: dict[int, Any], *, limit: int | None) -> Any:
    """Copy a dense tensor or array up to `limit` entries, once per object; return anything else as it is."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, torch.Tensor):
        dense = value.layout is torch.strided and not isinstance(value, nn.Parameter)
        if not dense or (limit is not None and value.numel() > limit):
            return value
        copies[id(value)] = value.detach().clone()
    elif isinstance(value, np.ndarray) and (limit is None or value.size <= limit):
        copies[id(value)] = value.copy()
    return copies.get(id(value), value)


SEED = 2020  # of whatever RecBole draws while measuring: the same attacked batches everywhere


def seed_generators(seed: int = SEED) -> None:
    """Seed what RecBole draws from: Python's, numpy's and torch's generators. Callers put them back."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

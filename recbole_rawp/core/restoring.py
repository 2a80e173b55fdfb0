"""Puts back what an extra pass changed: random generators, and the model's state outside its weights."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_rawp.core.copies import IN_PLACE, Copies


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

    Covers BatchNorm statistics, step counters (MultiVAE), loss histories (DiffRec), pair pointers (LINE), and what is
    in lists, dictionaries, sets and deques. The pass works on copies (`Copies`) and the original objects return,
    untouched: an autograd graph that saved them stays valid.

    Raises:
        RuntimeError: if the pass changed, in place, what is too large to be copied on every batch.
    """
    originals = [(module, dict(module._buffers), module.__dict__.copy()) for module in model.modules()]
    copies, lost = Copies(), ""
    for module, buffers, attributes in originals:
        for name, buffer in buffers.items():
            module._buffers[name] = copies.copied(buffer, limit=None)
        for name, value in attributes.items():
            if not name.startswith("_") and isinstance(value, IN_PLACE):
                module.__dict__[name] = copies.note(value, f"{type(module).__name__}.{name}")
    try:
        yield
    finally:
        lost = copies.restore()
        for module, buffers, attributes in originals:
            module._buffers.update(buffers)
            if module.__dict__.keys() != attributes.keys():
                for name in module.__dict__.keys() - attributes.keys():
                    del module.__dict__[name]
            module.__dict__.update(attributes)
    if lost:
        raise RuntimeError(f"{lost} changed in place inside the loss and is too large to copy on each batch")


SEED = 2020  # of whatever RecBole draws while measuring: the same attacked batches everywhere


def seed_generators(seed: int = SEED) -> None:
    """Seed what RecBole draws from: Python's, numpy's and torch's generators. Callers put them back."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)

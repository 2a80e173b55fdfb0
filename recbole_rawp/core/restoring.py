"""Puts back what an extra pass changed: random generators, and the model's state outside its weights."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import nn

CLONE_LIMIT = 2**16  # entries; larger plain tensors are watched, not cloned (interaction histories, graphs)
NOTE_LIMIT = 2**14  # entries of an attribute, with those of its inner containers, that are noted on every batch
TENSOR = 2**6  # entries that a tensor or array in a container counts for: what its copy costs
CONTAINERS = (list, dict, set, deque)
IN_PLACE = (*CONTAINERS, tuple, torch.Tensor, np.ndarray)  # what can change in place, or hold such


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


class Copies:
    """Notes what a pass may change in place, and lets it work on copies of the tensors and arrays.

    Containers stay the same objects throughout, for others may hold them: the copies are put into them, and their
    content is put back. What would cost too much on every batch (a dictionary of all histories) is known by its length
    alone: what a pass adds to its end is taken off again.
    """

    def __init__(self) -> None:
        self.copies: dict[int, Any] = {}
        self.noted: dict[int, tuple[str, Any, int, Any]] = {}  # place, container, its length, its content or None
        self.watched: list[tuple[str, torch.Tensor, int]] = []
        self.place, self.left = "", 0

    def note(self, value: Any, place: str) -> Any:
        """Note an attribute, whose `place` errors name; return what the pass is to find there."""
        self.place, self.left = place, NOTE_LIMIT
        return self._note(value) if isinstance(value, (*CONTAINERS, tuple)) else self._watched(value)

    def copied(self, value: Any, *, limit: int | None) -> Any:
        """Copy a dense tensor or array up to `limit` entries, once per object; return anything else as it is."""
        if id(value) in self.copies:
            return self.copies[id(value)]
        if isinstance(value, torch.Tensor):
            dense = value.layout is torch.strided and not isinstance(value, nn.Parameter)
            if not dense or (limit is not None and value.numel() > limit):
                return value
            self.copies[id(value)] = value.detach().clone()
        elif isinstance(value, np.ndarray) and (limit is None or value.size <= limit):
            self.copies[id(value)] = value.copy()
        return self.copies.get(id(value), value)

    def _watched(self, value: Any, limit: int = CLONE_LIMIT) -> Any:
        """Return a copy; a tensor too large for that is watched."""
        copy = self.copied(value, limit=limit)
        if copy is value and isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
            self.watched.append((self.place, value, value._version))
        return copy

    def _note(self, value: Any) -> Any:
        """Note what is in a container, or is one; return what the pass is to find in its place."""
        if isinstance(value, CONTAINERS):
            if id(value) not in self.noted:
                self._note_container(value)
        elif isinstance(value, tuple):
            inner = [self._note(entry) for entry in value] if self._look_into(value) else value
            if not all(map(is_, inner, value)):
                return type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
        elif isinstance(value, IN_PLACE):
            free = self.left >= TENSOR and not getattr(value, "requires_grad", False)
            self.left -= TENSOR if free else 0
            return self._watched(value, CLONE_LIMIT if free else 0)
        return value

    def _look_into(self, value: Any) -> bool:
        """Tell whether something in a container can change in place, and whether looking is paid for."""
        entries = value.values() if isinstance(value, dict) else value
        kinds = set(map(type, entries)) if len(value) <= self.left else ()
        self.left -= min(len(value), self.left)
        return any(issubclass(kind, IN_PLACE) for kind in kinds)

    def _note_container(self, value: Any) -> None:
        """Note a container's content, and put what the pass is to find into it."""
        content = value.copy() if len(value) <= self.left else None
        self.noted[id(value)] = self.place, value, len(value), content
        if content is None or not self._look_into(value) or isinstance(value, set):
            return
        for key, entry in content.items() if isinstance(content, dict) else enumerate(content):
            inner = self._note(entry)
            if inner is not entry:
                value[key] = inner

    def restore(self) -> str:
        """Put all content back; return the place of a change that cannot be undone, or nothing."""
        lost = [place for place, *noted in self.noted.values() if not refilled(*noted)]
        lost += [place for place, value, version in self.watched if value._version != version]
        return lost[0] if lost else ""


def refilled(value: Any, length: int, content: Any) -> bool:
    """Put a container's content back, or take off what was added; tell whether all is as it was."""
    if content is None:
        grown = len(value) - length
        if grown < 0 or (grown and isinstance(value, set)):
            return False
        for _ in range(grown):
            value.popitem() if isinstance(value, dict) else value.pop()
    elif not unchanged(value, content):
        value.clear()
        value.extend(content) if isinstance(value, (list, deque)) else value.update(content)
    return True


def unchanged(value: Any, content: Any) -> bool:
    """Tell whether a container holds the very objects that it held, in their order."""
    if len(value) != len(content):
        return False
    if isinstance(value, set):
        return bool(value == content)
    same = all(map(is_, value, content))
    return same and (not isinstance(value, dict) or all(map(is_, value.values(), content.values())))

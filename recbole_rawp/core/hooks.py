"""Watches or moves the outputs of modules while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn


def shifted(shifts: Mapping[nn.Module, Tensor]) -> AbstractContextManager[None]:
    """Add a shift to every output of each module."""
    return hooked({m: lambda module, args, output, shift=shift: output + shift for m, shift in shifts.items()})


def watched(layers: Mapping[str, nn.Module], see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
    """Call see(name, output) at every call of each layer."""
    return hooked({m: lambda module, args, output, name=name: see(name, output) for name, m in layers.items()})


@contextmanager
def hooked(hooks: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Run with a forward hook on each module; it is taken off also if the code inside fails."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

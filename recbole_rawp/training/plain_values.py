"""Copies, moves and writes down state: tensors, numbers and strings, in dictionaries, lists and dataclasses."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch


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
    """Return the value in types that `weights_only=True` loads; a dataclass becomes a dictionary of its fields."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" else value)
    return value


def loads(value: Any) -> bool:
    """Tell whether `weights_only=True` loads what `plain` makes of a number, a tensor, nothing, or several of these."""
    if type(value) in (list, tuple):
        return all(map(loads, value))
    return value is None or isinstance(value, (bool, int, float, str, np.number, torch.Tensor))

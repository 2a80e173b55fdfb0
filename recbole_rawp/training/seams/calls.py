"""Calls a trainer's methods as RecBole does: by keyword, and with no more than they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

REST, ANY = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD  # *args, **kwargs
EPOCH = ("train_data", "epoch_idx", "loss_func", "show_progress")  # RecBole's `_train_epoch`


def parameters(method: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a method by name; None if nobody can tell."""
    try:
        return inspect.signature(method).parameters
    except (TypeError, ValueError):
        return None


def takes(method: Callable[..., Any], name: str) -> bool:
    """Tell whether a method takes such a keyword, as far as can be told."""
    known = parameters(method)
    return known is None or name in known or any(parameter.kind is ANY for parameter in known.values())


def taken(method: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options that a method takes."""
    return {name: value for name, value in options.items() if takes(method, name)}


def named(method: Callable[..., Any], rest: Sequence[Any]) -> dict[str, Any]:
    """Return what was passed by position behind data and epoch, by the names that a `_train_epoch` has for it."""
    known = parameters(method)
    positional = [name for name, parameter in (known or {}).items() if parameter.kind not in (REST, ANY)]
    names = positional if len(positional) >= 2 + len(rest) else EPOCH
    return dict(zip(names[2:], rest))

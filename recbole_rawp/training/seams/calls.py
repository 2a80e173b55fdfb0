"""Calls a trainer's methods as RecBole does: by keyword, and with no more than they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

ANY = inspect.Parameter.VAR_KEYWORD  # **kwargs
BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
# What RecBole's methods take behind data and epoch, in its order.
EPOCH = ("loss_func", "show_progress")
FIT = ("verbose", "saved", "show_progress", "callback_fn")
EVALUATE = ("load_best_model", "model_file", "show_progress")


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


def named(
    method: Callable[..., Any], rest: Sequence[Any], options: Mapping[str, Any], usual: Sequence[str], *, behind: int
) -> dict[str, Any]:
    """Return the options, and the `rest` that was passed by position `behind` so many, by name.

    The names are the method's for it, or the `usual` ones.

    Raises:
        TypeError: if that is more than either takes, or something is passed twice.
    """
    known = parameters(method)
    own = [name for name, parameter in (known or {}).items() if parameter.kind in BY_POSITION][behind:]
    names = own if len(own) >= len(rest) else usual
    if len(rest) > len(names):
        raise TypeError(f"{method.__qualname__}() takes {behind + len(names)} arguments, not {behind + len(rest)}.")
    by_name = dict(zip(names, rest))
    if twice := by_name.keys() & options.keys():
        raise TypeError(f"{method.__qualname__}() got multiple values for argument '{min(twice)}'.")
    return by_name | dict(options)

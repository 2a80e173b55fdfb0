"""Stands for classes that a pickle names and that are not here, so that a model's class can be said anew."""

from __future__ import annotations

import os
import sys
from typing import Any


def here_too() -> None:
    """Let Python search the folder of the process, which it does for scripts and modules, and not for commands."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


class Missing:
    """Stands for a class that was not found, for the reason in `reason`; it cannot be instantiated."""

    reason = ""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Raise ModuleNotFoundError."""
        raise ModuleNotFoundError(f"{cls.__module__}.{cls.__qualname__}: {cls.reason}")


def missing(module: str, name: str, reason: str) -> type:
    """Return a stand-in for a class."""
    return type(name, (Missing,), {"__module__": module, "reason": reason})

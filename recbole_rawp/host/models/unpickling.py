"""Reads pickles that name a class which is not here: a stand-in takes its place, which cannot be instantiated.

So a checkpoint whose model's class was moved, or is of a script, is read, and the class can be said anew. It is passed
as `torch.load(..., pickle_module=unpickling)`.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any


def here_too() -> None:
    """Let Python search the folder of the process, which it does for scripts and modules, and not for commands."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


class Missing:
    """Stands for a class that cannot be imported, for the reason in `reason`."""

    reason = ""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        """Raise ModuleNotFoundError."""
        raise ModuleNotFoundError(f"{cls.__module__}.{cls.__qualname__}: {cls.reason}")


class Unpickler(pickle.Unpickler):
    """An unpickler that finds a `Missing` where there is no such class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what `name` is in `module`; the folder of the process is searched, too."""
        here_too()
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            return type(name, (Missing,), {"__module__": module, "reason": str(error)})


def load(file: Any, **options: Any) -> Any:
    """Return what the file holds, as `pickle.load` does."""
    return Unpickler(file, **options).load()

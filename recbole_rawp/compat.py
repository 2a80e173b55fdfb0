"""What keeps RecBole 1.2.1 alive on today's torch, numpy and scipy, and its KSR at all?

Each shim is applied only where its defect is found, acts only for code inside the package `recbole`,
and can be applied any number of times. RecBole itself is not imported here: `trainer` hands over the class to mend.
"""

from __future__ import annotations

import functools
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def apply() -> list[str]:
    """Apply every shim whose defect is present; return the names of those applied by this call."""
    applied = []
    if torch_load_refuses_objects():
        torch.load = trusting_load(torch.load)
        applied.append("torch.load")
    dok_matrix = scipy_dok_matrix()
    if dok_matrix is not None and not hasattr(dok_matrix, "_update"):
        dok_matrix._update = dok_update
        applied.append("dok_matrix._update")
    if numpy_lacks_old_names():
        vars(np)["__getattr__"] = remembering_old_names(np.__getattr__)
        applied.append("numpy.float")
    return applied


def called_from_recbole(depth: int) -> bool:
    """Tell whether the caller `depth` frames up is RecBole's own code."""
    name = sys._getframe(depth).f_globals.get("__name__", "")
    return name == "recbole" or name.startswith("recbole.")


# --- torch >= 2.6: torch.load defaults to weights_only=True; RecBole's checkpoints hold a pickled Config.
#     Remove when RecBole passes weights_only=False itself.


def torch_load_refuses_objects() -> bool:
    """Tell whether `torch.load`, called as RecBole calls it, refuses a checkpoint with a Python object."""
    if getattr(torch.load, "trusts_recbole", False):
        return False
    buffer = io.BytesIO()
    torch.save({"config": types.SimpleNamespace()}, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer)
    except Exception:
        return True
    return False


def trusting_load(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `torch.load` so that calls from inside RecBole load whole objects, as they did before torch 2.6."""

    @functools.wraps(load)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # its docstring is torch.load's own, by `wraps`
        if called_from_recbole(2):
            kwargs.setdefault("weights_only", False)
        return load(*args, **kwargs)

    wrapper.trusts_recbole = True  # type: ignore[attr-defined]
    return wrapper


# --- scipy >= 1.13: dok_matrix lost the private `_update`, which seven RecBole models call to fill a matrix.
#     Remove when RecBole builds its adjacency matrices without it.


def scipy_dok_matrix() -> Any:
    """Return scipy's dok_matrix class, or None where scipy is not installed."""
    try:
        from scipy.sparse import dok_matrix
    except ImportError:
        return None
    return dok_matrix


def dok_update(matrix: Any, entries: dict) -> None:
    """Set `matrix[key] = value` for each entry; private to RecBole, like the method it replaces."""
    if not called_from_recbole(2):
        raise AttributeError("'dok_matrix' object has no attribute '_update'")
    matrix._dict.update(entries)


# --- numpy >= 1.24 lost these names, which RecBole reads. A Config puts them back when it is made, but not when it is
#     read from a checkpoint, so that `load_data_and_model` alone leaves RecBole's evaluator without them.
#     Remove when RecBole does without.

OLD_NAMES = {"float": np.float64, "bool": np.bool_, "str": np.str_}


def numpy_lacks_old_names() -> bool:
    """Tell whether a name that RecBole reads is gone from numpy, and not yet given to it."""
    return not getattr(np.__getattr__, "remembers", False) and not OLD_NAMES.keys() <= vars(np).keys()


def remembering_old_names(missing: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap numpy's answer to names that it lacks, so that code inside RecBole gets the old ones."""

    def wrapper(name: str) -> Any:
        if name in OLD_NAMES and called_from_recbole(2):
            return OLD_NAMES[name]
        return missing(name)

    wrapper.remembers = True  # type: ignore[attr-defined]
    return wrapper


# --- RecBole 1.2.1: preloaded vectors are float64, and KSR multiplies its float32 weights by them.
#     Remove when RecBole's Dataset gives them in single precision.


def mend_preloaded(dataset_class: Any) -> None:
    """Let `get_preload_weight` of RecBole's Dataset give its models vectors in the precision of their weights."""
    theirs = dataset_class.get_preload_weight
    if getattr(theirs, "mended", False):
        return

    @functools.wraps(theirs)
    def get_preload_weight(dataset: Any, field: str) -> Any:  # its docstring is RecBole's own, by `wraps`
        matrix = theirs(dataset, field)
        return matrix.astype(np.float32, copy=False) if called_from_recbole(2) else matrix

    get_preload_weight.mended = True  # type: ignore[attr-defined]
    dataset_class.get_preload_weight = get_preload_weight

"""Mends torch, scipy and numpy for RecBole: what they lost or changed since RecBole 1.2.1 was written."""

from __future__ import annotations

import functools
import io
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recbole_rawp.errors import InputError
from recbole_rawp.host import unpickling
from recbole_rawp.host.compat.callers import called_from_recbole

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
    """Wrap `torch.load` so that calls from inside RecBole load whole objects, as they did before torch 2.6.

    While a job on a checkpoint runs that is not trusted, they load what RecBole's checkpoints need, and nothing else.
    """

    @functools.wraps(load)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # its docstring is torch.load's own, by `wraps`
        if not called_from_recbole(2):
            return load(*args, **kwargs)
        kwargs.setdefault("weights_only", False)
        if unpickling.guards():
            kwargs.setdefault("pickle_module", unpickling.PICKLE)
        try:
            return load(*args, **kwargs)
        except unpickling.NotAdmitted as error:
            raise InputError(unpickling.refusal(args[0], error)) from error

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


# --- numpy 1.24 to 1.26 lack the first four names, which RecBole's evaluator, Interaction and models of features read,
#     numpy >= 2 three of these and the others, which every Config reads. A Config puts the first back when it is made,
#     but not when it is read from a checkpoint: `load_data_and_model` alone leaves RecBole without them. These are all:
#     a test reads RecBole's source for more. Remove when RecBole does without.

OLD_NAMES = {"float": np.float64, "bool": np.bool_, "str": np.str_, "long": np.int_}
OLD_NAMES |= {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}


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

"""What keeps RecBole 1.2.1 alive on today's Python, torch, numpy, scipy and dgl, and its KSR at all?

Each shim acts only where its defect is found and only for code inside the package `recbole`, and can be
applied any number of times. RecBole itself is not imported here: `trainer` hands over the class to mend.
"""

from __future__ import annotations

import builtins
import functools
import importlib.machinery
import inspect
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
    for name, run, shim in ((QUICK_START, without_ray, "ray"), ("dgl", then_mended, "dgl, when it is imported")):
        if not any(isinstance(finder, Finder) and finder.name == name for finder in sys.meta_path):
            sys.meta_path.insert(0, Finder(name, run))
            applied.append(shim)
    if "dgl" in sys.modules:
        applied += old_dgl_calls(sys.modules["dgl"])
    return applied


def called_from_recbole(depth: int) -> bool:
    """Tell whether the caller `depth` frames up is RecBole's own code."""
    name = sys._getframe(depth).f_globals.get("__name__", "")
    return name == "recbole" or name.startswith("recbole.")


class Finder:
    """A finder that lets one module be imported as it would be, but run by `run(execute, module)`.

    What mends a module can wait there until RecBole asks for it.
    """

    def __init__(self, name: str, run: Callable[[Callable[..., Any], types.ModuleType], None]) -> None:
        self.name, self.run = name, run

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec, whose loader hands over to `run`; None for any other module."""
        if name != self.name:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(self.run, execute)  # type: ignore[method-assign]
        return spec


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


# --- numpy >= 1.24 lost the first three names, which RecBole reads, numpy >= 2 the others, which every Config reads. A
#     Config puts the first back when it is made, but not when it is read from a checkpoint, so that
#     `load_data_and_model` alone leaves RecBole's evaluator without them. Remove when RecBole does without.

OLD_NAMES = {"float": np.float64, "bool": np.bool_, "str": np.str_}
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


# --- ray <= 2.6.3, which `recbole.quick_start` imports for one call, `tune.report`, has no wheel for Python 3.12 and
#     does not import on numpy >= 2 or without pkg_resources. Where it does not import, RecBole does without: nothing
#     is put into sys.modules, and nobody else sees a ray. Whether it imports shows when RecBole asks for it.
#     Remove when RecBole imports ray where it tunes.

QUICK_START = "recbole.quick_start.quick_start"


def without_ray(execute: Callable[..., Any], module: types.ModuleType) -> None:
    """Run RecBole's quick start with an `import` that survives a ray which does not import."""
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_with_or_without_ray}
    execute(module)


def import_with_or_without_ray(name: str, *args: Any, **kwargs: Any) -> Any:
    """Import as usual; in place of a ray that fails, return one that is in no session, where `report` has no reader."""
    try:
        return builtins.__import__(name, *args, **kwargs)
    except Exception:  # a broken ray raises AttributeError, ModuleNotFoundError, ImportError ...
        if name != "ray":
            raise
        return types.SimpleNamespace(tune=types.SimpleNamespace(report=unread))


def unread(**result: Any) -> None:
    """Stand for ray's `tune.report`, which outside a session of ray only warns; HyperTuning's trials call it there."""


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


# --- dgl >= 0.7 and 1.0: `edge_subgraph` lost `preserve_nodes`, `adjacency_matrix` its forms of scipy; KGAT calls both.
#     dgl takes seconds to import and only KGAT needs it, so that its import, whenever it comes, is waited for.
#     Remove when KGAT builds its graph without them.


def then_mended(execute: Callable[..., Any], dgl: types.ModuleType) -> None:
    """Run dgl as it would be, and mend it."""
    execute(dgl)
    old_dgl_calls(dgl)


def old_dgl_calls(dgl: Any) -> list[str]:
    """Let RecBole call dgl as it was before these releases; return the names of the shims applied."""
    applied = []
    if lacks(dgl.edge_subgraph, "preserve_nodes"):
        dgl.edge_subgraph = preserving(dgl.edge_subgraph)
        applied.append("dgl.edge_subgraph")
    if lacks(dgl.DGLGraph.adjacency_matrix, "scipy_fmt"):
        dgl.DGLGraph.adjacency_matrix = scipy_adjacency(dgl.DGLGraph.adjacency_matrix)
        applied.append("DGLGraph.adjacency_matrix")
    return applied


def lacks(function: Callable[..., Any], option: str) -> bool:
    """Tell whether the function does not know an option, from RecBole neither."""
    return option not in inspect.signature(function).parameters and not hasattr(function, "knows_recboles_options")


def preserving(edge_subgraph: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `dgl.edge_subgraph` so that RecBole's `preserve_nodes=True` is today's `relabel_nodes=False`."""

    @functools.wraps(edge_subgraph)
    def wrapper(graph: Any, edges: Any, **options: Any) -> Any:
        if "preserve_nodes" in options and called_from_recbole(2):
            options["relabel_nodes"] = not options.pop("preserve_nodes")
        return edge_subgraph(graph, edges, **options)

    wrapper.knows_recboles_options = True  # type: ignore[attr-defined]
    return wrapper


def scipy_adjacency(adjacency_matrix: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `DGLGraph.adjacency_matrix` so that RecBole's `scipy_fmt` reaches what is now `adj_external`."""

    @functools.wraps(adjacency_matrix)
    def wrapper(graph: Any, *args: Any, **options: Any) -> Any:
        if "scipy_fmt" in options and called_from_recbole(2):
            return graph.adj_external(*args, **options)
        return adjacency_matrix(graph, *args, **options)

    wrapper.knows_recboles_options = True  # type: ignore[attr-defined]
    return wrapper

"""What keeps RecBole 1.2.1 alive on today's torch, scipy and dgl?

Each shim is applied only where its defect is found, acts only for code inside the package `recbole`,
and can be applied any number of times. RecBole itself is not imported here.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import io
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any

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
    if "dgl" in sys.modules:
        applied += old_dgl_calls(sys.modules["dgl"])
    elif not any(isinstance(finder, AfterDgl) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterDgl())
        applied.append("dgl, when it is imported")
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


# --- dgl >= 0.7 and 1.0: `edge_subgraph` lost `preserve_nodes`, `adjacency_matrix` its forms of scipy; KGAT calls both.
#     dgl takes seconds to import and only KGAT needs it, so that its import, whenever it comes, is waited for.
#     Remove when KGAT builds its graph without them.


class AfterDgl:
    """A finder that lets dgl be imported as it would be, and then applies `old_dgl_calls` to it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return dgl's own spec with a loader that goes on to the shims; None for any other module."""
        if name != "dgl":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                execute(module)
                old_dgl_calls(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


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

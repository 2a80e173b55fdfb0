"""Mends modules when they are imported: RecBole's quick start, its Config and Dataset, and dgl.

Each takes seconds to import, and most runs need none but the Dataset: so each is waited for.
"""

from __future__ import annotations

import builtins
import functools
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch.distributed as dist

from recbole_rawp.host.compat.callers import called_from_recbole

Run = Callable[[Callable[..., Any], types.ModuleType], None]


class Finder:
    """A finder that lets one module be imported as it would be, but run by `run(execute, module)`.

    What mends a module can wait there until RecBole asks for it.
    """

    def __init__(self, name: str, run: Run) -> None:
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


def mend_preloaded(module: Any) -> list[str]:
    """Let `Dataset.get_preload_weight` give RecBole's models vectors in the precision of their weights.

    Returns the names of the shims applied.
    """
    theirs = module.Dataset.get_preload_weight
    if getattr(theirs, "mended", False):
        return []

    @functools.wraps(theirs)
    def get_preload_weight(dataset: Any, field: str) -> Any:  # its docstring is RecBole's own, by `wraps`
        matrix = theirs(dataset, field)
        return matrix.astype(np.float32, copy=False) if called_from_recbole(2) else matrix

    get_preload_weight.mended = True  # type: ignore[attr-defined]
    module.Dataset.get_preload_weight = get_preload_weight
    return ["Dataset.get_preload_weight"]


# --- RecBole 1.2.1: the Config in a checkpoint of a distributed run says that it is one, so that whatever is made of it
#     in one process asks for a process group. Remove when RecBole asks whether there is one.


def mend_distributed(module: Any) -> list[str]:
    """Let a Config that is read where there is no process group be of one process.

    Returns the names of the shims applied.
    """
    if hasattr(module.Config, "__setstate__"):
        return []

    def setstate(config: Any, state: dict[str, Any]) -> None:
        vars(config).update(state)
        settings = state.get("final_config_dict", {})
        if settings.get("single_spec") is False and not (dist.is_available() and dist.is_initialized()):
            settings["single_spec"] = True

    module.Config.__setstate__ = setstate
    return ["Config.__setstate__"]


# --- dgl >= 0.7 and 1.0: `edge_subgraph` lost `preserve_nodes`, `adjacency_matrix` its forms of scipy; KGAT calls both.
#     dgl takes seconds to import and only KGAT needs it, so that its import, whenever it comes, is waited for.
#     Remove when KGAT builds its graph without them.


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


MENDED: dict[str, Callable[[Any], list[str]]] = {
    "recbole.config.configurator": mend_distributed,
    "recbole.data.dataset.dataset": mend_preloaded,
    "dgl": old_dgl_calls,
}


def then_mended(mend: Callable[[Any], list[str]], execute: Callable[..., Any], module: types.ModuleType) -> None:
    """Run a module as it would be, and mend it."""
    execute(module)
    mend(module)


def apply() -> list[str]:
    """Wait for each of these modules; mend one that is imported already. Return the names of the shims applied."""
    runs: dict[str, Run] = {QUICK_START: without_ray}
    runs |= {name: functools.partial(then_mended, mend) for name, mend in MENDED.items()}
    waiting = {finder.name for finder in sys.meta_path if isinstance(finder, Finder)}
    sys.meta_path[:0] = [Finder(name, run) for name, run in runs.items() if name not in waiting]
    applied = [f"{name}, when it is imported" for name in runs if name not in waiting]
    imported = ((sys.modules.get(name), mend) for name, mend in MENDED.items())  # None also stands for one ruled out
    return applied + [shim for module, mend in imported if module is not None for shim in mend(module)]

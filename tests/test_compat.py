"""Each shim is applied exactly where its defect is, and only for RecBole."""

from __future__ import annotations

import ast
import copy
import importlib.util
import io
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_rawp import compat
from recbole_rawp.host.compat import awaited, libraries
from tests import stand_ins

SINGLE = np.ones((2, 3), dtype=np.float32)


def checkpoint():
    buffer = io.BytesIO()
    torch.save({"config": types.SimpleNamespace(seed=1)}, buffer)
    buffer.seek(0)
    return buffer


def strict_load(file, weights_only=True):
    """Behave like torch.load since 2.6: refuse objects unless told otherwise."""
    if weights_only:
        raise RuntimeError("objects refused")
    return torch.serialization.load(file, weights_only=False)


def call_from(module, function, *args):
    """Call `function(*args)` from code whose module is called `module`."""
    code = types.FunctionType((lambda f, a: f(*a)).__code__, {"__name__": module})
    return code(function, args)


def test_with_the_defect_recbole_loads_objects_and_others_do_not(monkeypatch):
    monkeypatch.setattr(torch, "load", strict_load)
    assert libraries.torch_load_refuses_objects()
    assert "torch.load" in compat.apply()
    assert call_from("recbole.trainer.trainer", torch.load, checkpoint())["config"].seed == 1
    for other in ("somebody", "recbole_rawp.host.config", "__main__"):
        with pytest.raises(RuntimeError, match="objects refused"):
            call_from(other, torch.load, checkpoint())


def test_without_the_defect_torch_load_is_left_alone(monkeypatch):
    def lenient(file, weights_only=False):
        return torch.serialization.load(file, weights_only=False)

    monkeypatch.setattr(torch, "load", lenient)
    assert "torch.load" not in compat.apply() and torch.load is lenient


def test_applying_twice_changes_nothing_more():
    compat.apply()
    before = torch.load, scipy.sparse.dok_matrix._update
    assert compat.apply() == []
    assert (torch.load, scipy.sparse.dok_matrix._update) == before


def test_an_explicit_choice_of_recboles_is_respected(monkeypatch):
    monkeypatch.setattr(torch, "load", strict_load)
    compat.apply()
    wrapper = torch.load
    with pytest.raises(RuntimeError, match="objects refused"):
        code = types.FunctionType((lambda f, a: f(a, weights_only=True)).__code__, {"__name__": "recbole.trainer"})
        code(wrapper, checkpoint())


def test_recbole_fills_sparse_matrices_and_others_see_no_private_method(monkeypatch):
    monkeypatch.delattr(scipy.sparse.dok_matrix, "_update", raising=False)
    assert "dok_matrix._update" in compat.apply()
    matrix = scipy.sparse.dok_matrix((2, 3))
    call_from("recbole.model.general_recommender.lightgcn", matrix._update, {(1, 2): 5.0})
    assert matrix.toarray().tolist() == [[0, 0, 0], [0, 0, 5]]
    with pytest.raises(AttributeError):
        call_from("somebody", matrix._update, {})


def test_a_scipy_with_the_method_is_left_alone(monkeypatch):
    def own(self, entries):
        return None

    monkeypatch.setattr(scipy.sparse.dok_matrix, "_update", own, raising=False)
    assert compat.apply() == [] and scipy.sparse.dok_matrix._update is own


def numpy_two(name):
    """Answer like numpy since 2.0: the name is gone."""
    raise AttributeError(f"`np.{name}` was removed")


def test_with_the_defect_recbole_finds_numpys_old_names_and_others_do_not(monkeypatch):
    monkeypatch.setattr(np, "__getattr__", numpy_two)
    for name in libraries.OLD_NAMES:
        monkeypatch.delitem(vars(np), name, raising=False)
    assert "numpy.float" in compat.apply()
    assert "numpy.float" not in compat.apply()
    assert call_from("recbole.config.configurator", getattr, np, "float_") is np.float64
    assert call_from("recbole.config.configurator", getattr, np, "unicode_") is np.str_
    for module, name in (("somebody", "float_"), ("recbole.config.configurator", "bool8")):
        with pytest.raises(AttributeError, match="was removed"):
            call_from(module, getattr, np, name)


def test_a_numpy_with_the_names_is_left_alone(monkeypatch):
    for name, value in libraries.OLD_NAMES.items():
        monkeypatch.setitem(vars(np), name, value)
    monkeypatch.setattr(np, "__getattr__", numpy_two)
    assert "numpy.float" not in compat.apply() and np.__getattr__ is numpy_two


def names_of_numpy(source):
    """Return the names that a file reads of numpy, where it imports numpy as np; those that it writes are none."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return {
        n.attr for n in nodes if isinstance(n.value, ast.Name) and n.value.id == "np" and isinstance(n.ctx, ast.Load)
    }


def test_there_is_no_other_name_of_numpy_that_recbole_reads_and_numpy_lacks():
    home = Path(importlib.util.find_spec("recbole").origin).parent
    read = set().union(*(names_of_numpy(file.read_text(encoding="utf-8")) for file in home.rglob("*.py")))
    assert {"long", "float", "bool", "str"} <= read
    code = f"import numpy as np; print([n for n in {sorted(read)} if not hasattr(np, n)])"  # fresh: no Config was made
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert set(ast.literal_eval(done.stdout)) <= libraries.OLD_NAMES.keys(), done.stderr


def quick_start_with(ray, folder, monkeypatch):
    """Run RecBole's quick start anew where `ray` is a file of this content."""
    path = importlib.import_module("recbole.quick_start").__path__
    (folder / "ray.py").write_text(ray)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "ray", None)  # so that what this test leaves there goes afterwards
    del sys.modules["ray"]
    spec = next(spec for finder in sys.meta_path if (spec := finder.find_spec(awaited.QUICK_START, path)))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recboles_quick_start_does_without_a_ray_that_does_not_import_and_others_see_its_error(tmp_path, monkeypatch):
    module = quick_start_with("raise AttributeError('np.bool8 was removed')", tmp_path, monkeypatch)
    assert callable(module.run_recbole) and "ray" not in sys.modules
    assert module.tune.report(ndcg=1.0) is None
    with pytest.raises(AttributeError, match="np.bool8 was removed"):
        importlib.import_module("ray")


def test_recboles_quick_start_uses_a_ray_that_imports(tmp_path, monkeypatch):
    module = quick_start_with("class tune:\n    report = dict", tmp_path, monkeypatch)
    assert module.tune.report(ndcg=1.0) == {"ndcg": 1.0}


def test_no_other_import_of_the_quick_start_is_forgiven(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "recbole.data", None)
    with pytest.raises(ModuleNotFoundError, match="recbole.data"):
        quick_start_with("tune = None", tmp_path, monkeypatch)


def test_dgl_is_mended_as_soon_as_somebody_imports_it(tmp_path, monkeypatch):
    (tmp_path / "dgl.py").write_text("from tests.stand_ins import Graph as DGLGraph, edge_subgraph")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "dgl", None)  # so that what this test leaves there goes afterwards
    del sys.modules["dgl"]
    dgl = importlib.import_module("dgl")
    assert dgl.edge_subgraph is not stand_ins.edge_subgraph and awaited.old_dgl_calls(dgl) == []


def test_recbole_finds_numpys_old_names_before_its_config_puts_them_back_and_others_do_not(monkeypatch):
    for name in libraries.OLD_NAMES:
        monkeypatch.delitem(vars(np), name, raising=False)  # a Config in an earlier test may have put it there

    def lacking(name):
        raise AttributeError(name)

    monkeypatch.setattr(np, "__getattr__", lacking)
    assert "numpy.float" in compat.apply() and compat.apply() == []
    assert call_from("recbole.evaluator.metrics", getattr, np, "float") is np.float64
    assert call_from("recbole.model.layers", getattr, np, "long") is np.int_
    for module, name in (("somebody", "float"), ("recbole.evaluator.metrics", "no_such_name")):
        with pytest.raises(AttributeError):
            call_from(module, getattr, np, name)


def test_the_settings_of_a_distributed_run_are_of_one_process_where_there_is_one(monkeypatch):
    class Config:
        pass

    assert awaited.mend_distributed(types.SimpleNamespace(Config=Config)) == ["Config.__setstate__"]
    for initialized in (False, True):
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda now=initialized: now)
        config = Config()
        config.final_config_dict = {"single_spec": False}
        assert copy.copy(config).final_config_dict == {"single_spec": not initialized}


def test_recboles_models_get_preloaded_vectors_in_single_precision_and_others_as_recbole_gives_them():
    class Dataset:
        def get_preload_weight(self, field):
            return {"vector": np.full((2, 3), 0.1), "single": SINGLE}[field]

    module = types.SimpleNamespace(Dataset=Dataset)
    assert awaited.mend_preloaded(module) == ["Dataset.get_preload_weight"] and awaited.mend_preloaded(module) == []
    read = Dataset().get_preload_weight
    assert call_from("recbole.model.sequential_recommender.ksr", read, "vector").dtype == np.float32
    assert call_from("recbole.model.sequential_recommender.ksr", read, "single") is SINGLE
    assert call_from("somebody", read, "vector").dtype == np.float64

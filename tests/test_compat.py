"""Is each shim applied exactly where its defect is, and only for RecBole?"""

from __future__ import annotations

import io
import types

import pytest
import scipy.sparse
import torch

from recbole_rawp import compat


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
    assert compat.torch_load_refuses_objects()
    assert "torch.load" in compat.apply()
    assert call_from("recbole.trainer.trainer", torch.load, checkpoint())["config"].seed == 1
    for other in ("somebody", "recbole_rawp.config", "__main__"):
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

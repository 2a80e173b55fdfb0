"""Do per-user results survive the file, and are only the same users joined?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from recbole_rawp.evaluation import users
from recbole_rawp.evaluation.records import Condition
from recbole_rawp.evaluation.users import Users


def some(defense="none"):
    rng = np.random.default_rng(1)
    own = {"model": "M", "dataset": "D", "defense": defense, "stage": 1, "seed": 7, "split": "test", "threat": "fgsm"}
    own |= {"target": "hidden", "granularity": "tensor", "unit": "relative radius", "scope": "universal", "labels": ""}
    own |= {"loss": "training"}
    conditions = [Condition(**own, steps=1, level=level) for level in (0.0, 0.1)]
    return Users(
        user=np.array([3, 1, 2]),
        activity=np.array([10, 20, 30]),
        popularity=np.array([1.5, 2.0, 0.0]),
        metrics=["ndcg@10", "hit@10"],
        conditions=conditions,
        values=rng.random((2, 2, 3), dtype=np.float32),
        overlap=rng.random((2, 3), dtype=np.float32),
        k=10,
    )


def assert_same(a, b):
    for field in fields(Users):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert type(x) is type(y)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_what_is_saved_is_loaded(tmp_path):
    written = {"universal": some(), "per_user": some("rawp")}
    users.write_users(tmp_path / "users.npz", written)
    read = users.read_users(tmp_path / "users.npz")
    assert list(read) == list(written)
    for scope in written:
        assert_same(read[scope], written[scope])
    assert [path.name for path in tmp_path.iterdir()] == ["users.npz"]


def test_the_file_needs_no_pickle_and_names_its_scopes(tmp_path):
    users.write_users(tmp_path / "users.npz", {"per_user": some()})
    with np.load(tmp_path / "users.npz", allow_pickle=False) as file:
        assert {key.split("/")[0] for key in file.files} == {"per_user"}
        assert all(file[key].dtype != object for key in file.files)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    users.write_users(tmp_path / "users.npz", {"universal": some()})
    broken = some()
    broken.conditions[0] = replace(broken.conditions[0], level=object())
    with pytest.raises(TypeError):
        users.write_users(tmp_path / "users.npz", {"universal": broken})
    assert_same(users.read_users(tmp_path / "users.npz")["universal"], some())


def test_join_keeps_the_order_of_the_models():
    joined = users.join([some("none"), some("rawp")])
    assert [condition.defense for condition in joined.conditions] == ["none", "none", "rawp", "rawp"]
    assert joined.values.shape == (4, 2, 3) and joined.overlap.shape == (4, 3)
    np.testing.assert_array_equal(joined.values[2:], some("rawp").values)


@pytest.mark.parametrize(
    "change", [{"user": np.array([1, 2, 3])}, {"metrics": ["ndcg@10", "mrr@10"]}, {"activity": np.zeros(3)}, {"k": 5}]
)
def test_join_refuses_other_users_or_metrics_and_names_what_differs(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        users.join([some(), replace(some(), **change)])


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        replace(some(), overlap=np.zeros((2, 4)))


def test_it_works_without_recbole():
    code = "import sys, recbole_rawp.evaluation.users; sys.exit(any(m.split('.')[0] == 'recbole' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

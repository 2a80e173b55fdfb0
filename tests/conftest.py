"""Every test runs in an empty folder of its own, on one thread, with no command line, and leaves RecBole as it was."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from recbole_rawp import compat
from recbole_rawp.core import ascent, objective
from tests import toy_data
from tests.support_table import pytest_addoption, pytest_sessionfinish, support

__all__ = ["pytest_addoption", "pytest_sessionfinish", "support"]

compat.apply()  # before the tests import RecBole's quick start, which may meet a ray that does not import

PICTURES = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}  # of nothing
TOY = {
    "dataset": "toy",
    "epochs": 2,
    "defense": "rawp_ft_reference",  # the default takes sixteen epochs more
    "ft_epochs": 2,
    "ft_modules": 1,
    "ft_steps": 1,
    "ft_attack_steps": 1,
    "ft_alphas": 2,
    "criticality_steps": 2,
    "train_batch_size": 256,
    "eval_batch_size": 8192,
    "state": "error",
    "show_progress": False,
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "genre"],
    },
    "MAX_ITEM_LIST_LENGTH": 10,
}


@pytest.fixture(autouse=True)
def clean_slate(tmp_path, monkeypatch):
    """Isolate a test: folder, threads, command line, handlers and level of the log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    log = logging.getLogger()
    handlers, level = log.handlers[:], log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)  # which RecBole sets where it finds no handler
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def pictures(request, monkeypatch):
    """Save pictures as an empty one, but in tests marked `drawn`: rendering is a third of a small run's time."""
    if "drawn" in request.keywords:
        return
    from matplotlib.figure import Figure

    def save(self, path, *, format, **_):
        Path(path).write_bytes(PICTURES[format])

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="session")
def data_path(tmp_path_factory):
    """The folder that holds the generated data set `toy`."""
    return str(toy_data.write(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def zoo_path(tmp_path_factory):
    """The folder that holds the data set of `zoo`."""
    from tests import zoo  # which takes TOY from here

    return str(zoo.write(tmp_path_factory.mktemp("zoo")))


@pytest.fixture
def settings(data_path):
    """Return a function: model, overrides -> a config_dict for that model on the generated data."""

    def build(model, **overrides):
        kinds = {
            "context": ("DeepFM", "DCN", "NFM"),
            "sequence": ("SASRec", "GRU4Rec", "BERT4Rec"),
            "knowledge": ("MKR", "KGCN", "RippleNet"),
            "features": ("SASRecF", "GRU4RecF", "FDSA"),
        }
        extra = {}
        if model in kinds["context"]:
            extra = {
                "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "labeled"},
                "metrics": ["AUC", "LogLoss"],
                "valid_metric": "AUC",
                "train_neg_sample_args": None,
                "threshold": {"rating": 4},
            }
        if model in ("RecVAE", "MultiVAE", "DiffRec"):
            extra = {"train_neg_sample_args": None}
        if model in kinds["knowledge"]:
            columns = {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
            extra = {"load_col": TOY["load_col"] | columns, "kg_embedding_size": 8, "embedding_size": 8}
        if model in kinds["sequence"] + kinds["features"] + ("DIN", "DIEN"):
            extra = {
                "train_neg_sample_args": None,
                "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            }
        if model in kinds["features"]:
            extra |= {"load_col": extra["load_col"] | {"item": ["item_id", "genre"]}, "selected_features": ["genre"]}
        if model in ("DIN", "DIEN"):
            args = {"distribution": "uniform", "sample_num": 1}
            labeled = {**extra["eval_args"], "mode": "uni20"}
            extra |= {"load_col": TOY["load_col"], "train_neg_sample_args": args, "eval_args": labeled}
            extra |= {"metrics": ["AUC"], "valid_metric": "AUC"}
        return {**TOY, "data_path": data_path, "model": model, **extra, **overrides}

    return build


@pytest.fixture
def zero(monkeypatch):
    """From here on every delta is found, and multiplied by 0; returns the list of its norms before."""
    norms = []

    def nothing(*args, **kwargs):
        delta = ascent.ascend(*args, **kwargs)
        norms.append(sum(float(change.norm()) for change in delta.values()))
        return {name: change * 0 for name, change in delta.items()}

    def switch_on():
        monkeypatch.setattr(objective, "ascend", nothing)
        return norms

    return switch_on


@pytest.fixture
def plain(settings):
    """A checkpoint of RecBole's own run, without anything of ours."""
    config = settings("NeuMF", checkpoint_dir="theirs")
    from recbole.quick_start import run_recbole

    run_recbole(config_dict={key: value for key, value in config.items() if not key.startswith(("ft_", "defense"))})
    (file,) = Path("theirs").glob("*.pth")
    return file

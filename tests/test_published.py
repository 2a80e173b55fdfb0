"""The files of the published protocol load, agree, ship, and split as they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from recbole_rawp.config.settings import read
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from tests.conftest import TOY

ROOT = Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "properties/published").glob("*.yaml"))
FILES = [file for file in SHIPPED if file.stem != "mlp"]  # which says how a model is hardened
PROTOCOL = ("train_neg_sample_args", "metrics", "topk", "valid_metric", "attack")
QUIET = {"state": "error", "show_progress": False}
names = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


@names
def test_a_file_alone_says_data_set_and_protocol(file):
    config = RAWPConfig("MLP", "yelp-loo" if file.stem == "loo" else None, [str(file)])
    assert config["dataset"] == ("yelp-loo" if file.stem == "loo" else file.stem)
    assert (config["metrics"], config["topk"], config["valid_metric"]) == (["Hit", "NDCG"], [10], "NDCG@10")
    assert config["train_neg_sample_args"]["sample_num"] == 4
    for phase in ("valid", "test"):
        assert config[f"{phase}_neg_sample_args"] == {"distribution": "uniform", "sample_num": 99}
    assert {threat.scope for threat in read(config).attack.threats} == {"per_user"}
    assert (config["benchmark_filename"] is None) == (config["attack_candidates"] is None) == (file.stem != "loo")


@names
def test_the_files_agree_on_the_protocol(file):
    shared, this = (yaml.safe_load(path.read_text()) for path in (ROOT / "properties/published/loo.yaml", file))
    assert all(this[key] == shared[key] for key in PROTOCOL)
    assert all(this["eval_args"][key] == shared["eval_args"][key] for key in ("group_by", "mode"))
    assert shared.keys() <= this.keys(), "after loo.yaml, in one comparison, it must replace all of it"


def test_they_ship_in_the_package(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", f"--build-lib={tmp_path / 'lib'}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    shipped = sorted((tmp_path / "lib/recbole_rawp/properties/published").glob("*.yaml"))
    assert [file.read_text() for file in shipped] == [file.read_text() for file in SHIPPED]


def split(file, **changes):
    """Return RecBole's three data sets as frames of internal ids."""
    config = RAWPConfig("NeuMF", None, [str(ROOT / "properties/published" / file)], {**QUIET, **changes})
    return [part._dataset.inter_feat for part in prepare(config)[0]]


def test_of_ml_100k_each_users_last_interaction_is_tested_and_the_one_before_validated():
    train, valid, test = split("ml-100k.yaml")
    latest = np.zeros(944)
    np.maximum.at(latest, train["user_id"].numpy(), train["timestamp"].numpy())
    assert len(set(test["user_id"].tolist())) == len(test) == len(valid) == 943
    before = dict(zip(valid["user_id"].tolist(), valid["timestamp"].tolist()))
    for user, time in zip(test["user_id"].tolist(), test["timestamp"].tolist()):
        assert latest[user] <= before[user] <= time


def test_of_a_set_without_timestamps_the_seed_draws_one_interaction_to_test_and_one_to_validate(data_path):
    place = {"dataset": "toy", "data_path": data_path, "eval_batch_size": TOY["eval_batch_size"]}
    drawn = []
    for seed in (2020, 2020, 7):
        train, valid, test = split("filmtrust.yaml", seed=seed, **place)
        assert "timestamp" not in train and len(set(test["user_id"].tolist())) == len(test) == len(valid) == 47
        drawn.append(dict(zip(test["user_id"].tolist(), test["item_id"].tolist())))
    assert drawn[0] == drawn[1] != drawn[2]

"""Is a model that goes to another checkpoint that model where it arrives, and itself where it began?"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from recbole_rawp import attack_checkpoint
from recbole_rawp.config.suites import completed
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import kept
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.report.scores import shares
from recbole_rawp.threats.drift import Drift, as_large
from tests.test_evaluation import trained
from tests.training import QUICK


def saved(settings, file, *, seed, **given):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", seed=seed, **given)))
    trainer.saved_model_file = file
    trainer._save_checkpoint(0, verbose=False)
    return trainer, data


def test_all_of_the_way_is_the_other_model_and_none_of_it_this_one(settings):
    here, data = saved(settings, "here.pth", seed=1, epochs=5)
    there, _ = saved(settings, "there.pth", seed=1, epochs=15)
    given = {**QUICK, "attack": ["drift", "drift_noise"], "attack_checkpoint": "there.pth", "rawp_output_dir": "out"}
    found = attack_checkpoint("here.pth", config_dict=given | {"attack_radii": None})
    at = {(r.threat, r.level): r.value for r in found["records"] if r.metric == "mrr@10"}
    own = [trainer.evaluate(data.test, load_best_model=False)["mrr@10"] for trainer in (here, there)]
    assert at["drift", 0] == pytest.approx(own[0], abs=1e-3) and at["drift", 1] == pytest.approx(own[1], abs=2e-3)
    assert at["drift", 1] != pytest.approx(at["drift", 0], abs=1e-3) and at["drift_noise", 0] == at["drift", 0]
    assert {level for _, level in at} == {0, 0.25, 0.5, 0.75, 1, 1.5, 2}
    assert any("there.pth' it is 0." in note for note in Path("out/report.md").read_text().splitlines())


def test_noise_is_as_large_as_the_way_tensor_by_tensor():
    way = {"a": torch.randn(4, 3), "b": torch.zeros(2), "c": torch.tensor([3.0])}
    found = as_large(way, seed=3)
    assert all(float(found[name].norm()) == pytest.approx(float(way[name].norm()), abs=1e-6) for name in way)
    assert not torch.equal(found["a"], way["a"]) and torch.equal(found["a"], as_large(way, seed=3)["a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"attack": ["drift"]}, "^attack_checkpoint: drift goes to another checkpoint of the same model, and none is"),
        ({"attack": ["drift"], "attack_checkpoint": "gone.pth"}, "^attack_checkpoint: there is no file '.*gone.pth'"),
        ({"attack": ["drift"], "attack_checkpoint": "wide.pth"}, "^attack_checkpoint: the weights in '.*wide.pth' are"),
    ],
)
def test_another_model_than_this_one_is_refused_before_anything(given, message, settings):
    saved(settings, "here.pth", seed=1, epochs=1)
    saved(settings, "wide.pth", seed=1, epochs=1, mf_embedding_size=8)
    with pytest.raises(InputError, match=message):
        attack_checkpoint("here.pth", config_dict={"rawp_output_dir": "out", **given})


def test_a_suite_reads_it_back():
    threat = Drift(("drift",), "hidden", (0.0, 0.5, 3.0), "other.pth")
    assert Drift.of(completed(threat.entry()) | {"variants": ("drift",), "optional": False}) == threat
    assert Drift.check(completed(threat.entry()) | {"shares": [11]}).startswith("attack: shares: [11] is not valid")


def test_how_much_is_kept_of_one_score_is_what_tables_say_of_it():
    for metric, bigger in (("auc", True), ("ndcg@10", True), ("logloss", False)):
        wide = pd.DataFrame([[0.8, 0.6, 0.4]], columns=[0.0, 1.0, 2.0])
        table = shares(wide, bigger=bigger, metric=metric).iloc[0]
        for level, value in wide.iloc[0].items():
            assert kept(value, 0.8, metric, bigger=bigger) == pytest.approx(table[level])
    assert math.isnan(kept(0.4, 0.5, "auc", bigger=True)) and math.isnan(kept(0.0, 1.0, "logloss", bigger=False))

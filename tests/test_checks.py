"""Are numbers that cannot be trusted called so?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_rawp.core import overlay
from recbole_rawp.evaluation import self_checks
from recbole_rawp.evaluation.records import COLUMNS, Record, Subject
from recbole_rawp.evaluation.robustness import Outcome
from recbole_rawp.host.config import RAWPConfig
from tests.test_evaluation import outcome, threat, trained

NAMES = {
    "finite": "all values are finite",
    "gradient": "the attack has a gradient",
    "noise": "the attack raises the loss more than its control",
    "steps": "more steps are no weaker than one",
    "grows": "the loss grows with the level",
    "cache": "scores follow the weights (no stale cache)",
    "clean": "level 0 equals RecBole's own evaluation",
}

SUBJECT = Subject("M", "D", "none", 1, 2020, "test")


def record(attack, radius, metric, value, **fields):
    fixed = {
        "defense": "none",
        "scope": "universal",
        "target": "hidden",
        "granularity": "tensor",
        "unit": "relative radius",
    }
    row = {"threat": attack, "level": radius, "metric": metric, "value": value}
    return Record(**(dict.fromkeys(COLUMNS, "") | fixed | row | fields))


def verified(ndcg=0.25, clean=0.25, unmoved=(), **losses):
    """Check methods with losses at radius 0, 0.1 (and 0.2)."""
    records = [
        record(attack, radius, metric, value)
        for attack, values in losses.items()
        for radius, loss in zip((0.0, 0.1, 0.2), values)
        for metric, value in (("loss", loss), ("ndcg@10", ndcg))
    ]
    found = self_checks.verify(Outcome(SUBJECT, records, unmoved=list(unmoved)), {"ndcg@10": clean}, decimals=4)
    return {short: next((c.status, c.detail) for c in found if c.name == name) for short, name in NAMES.items()}


def test_a_sound_attack_passes_and_rounding_is_allowed():
    found = verified(noise=(0.5, 0.6, 0.7), fgsm=(0.5, 0.9, 1.0), bim=(0.5, 0.9, 1.1), ndcg=0.24996)
    assert {status for status, _ in found.values()} == {"passed"}


def test_an_attack_without_gradient_fails():
    found = verified(noise=(0.5, 0.6), fgsm=(0.5, 0.5))
    assert found["gradient"] == ("failed", "fgsm 0.1")
    assert found["noise"][0] == "failed"
    assert found["steps"][0] == "not applicable"  # bim was not asked for


def test_noise_may_win_by_what_no_ranking_shows():
    assert verified(noise=(0.5, 0.6004), fgsm=(0.5, 0.6))["noise"][0] == "passed"
    assert verified(noise=(0.5, 0.6006), fgsm=(0.5, 0.6))["noise"] == ("failed", "strongest method 0.1")


def test_steps_that_do_not_help_fail():
    assert verified(fgsm=(0.5, 0.9), pgd=(0.5, 0.8))["steps"] == ("failed", "strongest method 0.1")
    assert verified(fgsm=(0.5, 0.9), pgd=(0.5, 0.895))["steps"][0] == "passed"  # nearly linear: FGSM is the best


def test_a_loss_that_falls_with_the_radius_fails_unless_another_method_climbs():
    assert verified(fgsm=(0.5, 0.9, 0.8))["grows"][0] == "not applicable"  # one step may overshoot
    assert verified(fgsm=(0.5, 0.9, 0.8), bim=(0.5, 0.9, 0.7))["grows"] == ("failed", "strongest method 0.2")
    assert verified(fgsm=(0.5, 0.9, 0.8), bim=(0.5, 0.9, 1.0))["grows"][0] == "passed"
    assert verified(fgsm=(0.5, 0.95, 0.8), bim=(0.5, 0.8, 0.9))["grows"][0] == "passed"  # FGSM is not followed


def test_nan_and_a_wrong_clean_value_fail():
    found = verified(noise=(0.5, 0.6), fgsm=(0.5, float("nan")), ndcg=0.2504, clean=0.24)
    assert found["finite"] == ("failed", "fgsm 0.1") and found["noise"][0] == "failed"
    assert found["clean"] == ("failed", "ndcg@10 0.24")


def test_scores_that_do_not_move_fail():
    assert verified(fgsm=(0.5, 0.9), unmoved=["item.weight"])["cache"] == ("failed", "item.weight")


def test_without_something_to_compare_a_check_does_not_apply():
    records = [record(a, r, "loss", r + (a == "fgsm") * r) for a in ("fgsm", "noise") for r in (0.0, 1.0)]
    found = self_checks.verify(Outcome(SUBJECT, records), None, decimals=4)
    assert {c.status for c in found if c.name in (NAMES["clean"], NAMES["cache"])} == {"not applicable"}


def test_several_threats_are_told_apart():
    records = [record(a, r, "loss", 1.0, target=t) for t in ("hidden", "all") for a in ("fgsm",) for r in (0.0, 1.0)]
    found = self_checks.verify(Outcome(SUBJECT, records), None, decimals=4)
    details = {c.name: c.detail for c in found}[NAMES["gradient"]]
    assert details == "hidden/tensor/universal fgsm 1.0, all/tensor/universal fgsm 1.0"


def test_a_real_attack_passes(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=20)))
    result = trainer.evaluate(data.test, load_best_model=False)
    found = self_checks.verify(outcome(trainer, data, threat(), batches=10), result, decimals=4)
    statuses = {c.name: c.status for c in found}
    assert {statuses[name] for name in NAMES.values()} == {"passed"}, found
    assert "failed" not in statuses.values()


@pytest.mark.parametrize("name", ["LightGCN", "NGCF", "DMF"])
def test_a_stale_cache_is_seen(name, settings, monkeypatch):
    config = RAWPConfig(config_dict=settings(name, defense="none", rawp_target="embeddings"))
    trainer, data = trained(config)

    def status():
        found = self_checks.verify(
            outcome(trainer, data, threat(target="embeddings", variants=("noise",))), None, decimals=4
        )
        return next(c.status for c in found if c.name == NAMES["cache"])

    assert status() == "passed"
    monkeypatch.setattr(overlay, "clear_caches", lambda modules: None)
    monkeypatch.setattr("recbole_rawp.host.ranking.measurement.clear_caches", lambda modules: None)
    trainer.evaluate(data.test, load_best_model=False)  # fills the cache
    assert status() == "failed"


def test_a_model_with_saturated_loss_is_flagged_not_praised(settings):
    """Its FGSM finds no gradient and moves nothing: the ranking is kept in full, and that means nothing."""
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    with torch.no_grad():
        trainer.model.predict_layer.weight.zero_()
        trainer.model.predict_layer.bias.fill_(1e4)
    found = outcome(trainer, data, threat(target=("mlp_layers*",)))
    ndcg = {r.value for r in found.records if r.metric == "ndcg@10" and r.threat == "fgsm"}
    assert len(ndcg) == 1
    statuses = {c.name: c.status for c in self_checks.verify(found, None, decimals=4)}
    assert statuses[NAMES["gradient"]] == "failed"


def test_scores_of_nan_are_flagged_though_recbole_ranks_them_first(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    with torch.no_grad():
        trainer.model.user_mf_embedding.weight[data.test.uid_list[0]] = float("nan")
    found = outcome(trainer, data, threat(variants=("noise",)))
    assert all(r.value != r.value for r in found.records if r.metric == "ndcg@10")
    assert np.isnan(
        found.users["universal"].values
    ).all()  # else differences over users would be tested on that ranking
    assert {c.name: c.status for c in self_checks.verify(found, None, decimals=4)}[NAMES["finite"]] == "failed"
    assert (
        trainer.evaluate(data.test, load_best_model=False)["ndcg@10"] == trainer.evaluate(data.test, False)["ndcg@10"]
    )


def test_a_random_start_does_not_pass_for_a_gradient(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    monkeypatch.setattr(
        "recbole_rawp.core.losses.attack_loss.gradients",
        lambda loss, weights: {n: torch.zeros_like(w) for n, w in weights.items()},
    )
    found = self_checks.verify(outcome(trainer, data, threat(variants=("pgd",))), None, decimals=4)
    assert {c.name: c.status for c in found}[NAMES["gradient"]] == "failed"


def test_nan_in_one_scope_is_no_nan_in_the_other(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    users = threat(variants=("noise",), scope="per_user", labels="pseudo", granularity="row")
    huge = threat(variants=("noise",), levels=(0.0, 1e38))
    scores = {r.scope: r.value for r in outcome(trainer, data, huge, users).records if r.metric == "ndcg@10"}
    assert scores["per_user"] == scores["per_user"]
    with torch.no_grad():
        trainer.model.user_mf_embedding.weight.fill_(float("nan"))
    found = outcome(trainer, data, users)
    assert all(r.value != r.value for r in found.records)


def test_only_per_user_threats_are_checked_too(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    users = threat(variants=("noise", "fgsm"), scope="per_user", labels="pseudo", granularity="row")
    result = trainer.evaluate(data.test, load_best_model=False)
    statuses = {c.name: c.status for c in self_checks.verify(outcome(trainer, data, users), result, decimals=4)}
    assert statuses[NAMES["clean"]] == "not applicable" and statuses[NAMES["cache"]] == "passed"

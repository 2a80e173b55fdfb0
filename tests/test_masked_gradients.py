"""Is a model found out whose gradients are masked, or that knows nothing to lose?"""

from __future__ import annotations

import pytest
import torch

from recbole_rawp.evaluation import self_checks
from recbole_rawp.host.config import RAWPConfig
from tests.test_checks import record
from tests.test_evaluation import outcome, threat, trained

SOUND = {"passed", "not applicable"}
NAMES = {
    "gradient": "the attack has a gradient",
    "black box": "no search without gradients is stronger",
    "settled": "the strongest search ended where it was best",
    "hits": "the ranking loss hits the metric no less than the training loss",
    "ties": "scores tell items apart (they do not saturate)",
    "learned": self_checks.UNDERTRAINED,
}


@pytest.fixture(scope="module")
def neumf(data_path):
    from tests.conftest import TOY

    settings = TOY | {"model": "NeuMF", "data_path": data_path, "defense": "none", "epochs": 20}
    return trained(RAWPConfig(config_dict=settings | {"valid_metric": "NDCG@10"}))


def statuses(trainer, data):
    attack = threat(
        variants=("noise", "apgd", "random_search"), losses=("training", "ranking"), levels=(0.0, 0.5), iterations=10
    )
    found = self_checks.verify(outcome(trainer, data, attack), None, decimals=4, metric="ndcg@10")
    return {short: next(c.status for c in found if c.name == name) for short, name in NAMES.items()}


def masked(monkeypatch, trainer, change):
    """Let `predict`, and the training loss, see logits that were changed."""
    model = trainer.model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *inputs: change(forward(*inputs)))


def test_a_sound_model_passes(neumf):
    assert set(statuses(*neumf).values()) <= SOUND


def test_scores_that_are_rounded_are_found_out(neumf, monkeypatch):
    masked(monkeypatch, neumf[0], lambda logits: (4 * logits).round() / 4)
    found = statuses(*neumf)
    assert found["gradient"] == "failed" and found["ties"] == "failed" and found["black box"] == "failed"


def test_a_sigmoid_that_saturates_is_found_out(neumf, monkeypatch):
    masked(monkeypatch, neumf[0], lambda logits: 6 * torch.tanh(60 * logits))
    found = statuses(*neumf)
    assert found["ties"] == "failed"


def test_a_branch_that_flips_the_gradient_at_random_is_found_out(neumf, monkeypatch):
    """The gradient of half of the rows points the other way; the values are the model's own."""

    def flipped(logits):
        sign = 1 - 2 * torch.randint(0, 2, logits.shape).to(logits)
        turned = logits * sign
        return turned + (logits - turned).detach()

    masked(monkeypatch, neumf[0], flipped)
    found = statuses(*neumf)
    assert "failed" in (found["black box"], found["gradient"], found["hits"], found["settled"])


def verified(records, **more):
    seen = self_checks.verify(self_checks_outcome(records, **more), None, decimals=4, metric="ndcg@10")
    return {short: next((c.status, c.detail) for c in seen if c.name == name) for short, name in NAMES.items()}


def self_checks_outcome(records, **more):
    from recbole_rawp.evaluation.robustness import Outcome
    from tests.test_checks import SUBJECT

    return Outcome(SUBJECT, records, **more)


def losses(**by_variant):
    rows = [(v, level, value) for v, values in by_variant.items() for level, value in zip((0.0, 0.1), values)]
    return [record(v, level, "loss", value, loss="ranking") for v, level, value in rows]


def test_a_search_without_gradients_that_wins_fails():
    weaker = verified(losses(apgd=(0.5, 0.9), random_search=(0.5, 0.6)))
    stronger = verified(losses(apgd=(0.5, 0.6), random_search=(0.5, 0.9)))
    assert weaker["black box"][0] == "passed" and stronger["black box"] == ("failed", "random_search 0.1")
    assert verified(losses(apgd=(0.5, 0.9)))["black box"][0] == "not applicable"


def test_a_best_point_far_above_the_last_fails_where_that_search_is_the_strongest():
    rows = losses(apgd=(0.5, 0.9), bim=(0.5, 0.6))
    name = "hidden/tensor/universal"
    assert verified(rows, unsettled={(name, "ranking", "apgd", 0.1)})["settled"] == ("failed", "apgd 0.1")
    assert verified(rows, unsettled={(name, "ranking", "bim", 0.1)})["settled"][0] == "passed"


def metric(training, ranking, clean=0.4):
    rows = [
        record("apgd", level, "ndcg@10", value, loss="training") for level, value in ((0.0, clean), (0.1, training))
    ]
    return [
        *rows,
        *(record("apgd", level, "ndcg@10", v, loss="ranking") for level, v in ((0.0, clean), (0.1, ranking))),
    ]


def test_a_ranking_attack_that_hits_less_than_the_training_loss_fails():
    assert verified(metric(0.3, 0.1))["hits"][0] == verified(metric(0.3, 0.315))["hits"][0] == "passed"
    assert verified(metric(0.1, 0.3))["hits"] == ("failed", "hidden/tensor/universal ranking 0.1")


def test_ties_and_popularity():
    assert verified(metric(0.3, 0.1), ties=0.01)["ties"][0] == "passed"
    assert verified(metric(0.3, 0.1), ties=0.3)["ties"] == ("failed", "30% tie")
    assert verified(metric(0.3, 0.1), popularity={"ndcg@10": 0.2})["learned"][0] == "passed"
    weak = verified(metric(0.3, 0.1), popularity={"ndcg@10": 0.41})["learned"]
    assert weak == ("failed", "ndcg@10 0.4000, popularity 0.4100")
    assert verified(metric(0.3, 0.1))["learned"][0] == "not applicable"


def test_popularity_is_recboles_metric_of_the_training_counts(neumf):
    """The oracle: count by hand, hide the history, sort, and look where the test items stand."""
    import numpy as np

    trainer, data = neumf
    found = outcome(trainer, data, threat(variants=("noise",), levels=(0.0, 0.1))).popularity
    rows = data.train._dataset.inter_feat
    counts = np.bincount(rows["item_id"].numpy(), minlength=data.train._dataset.item_num).astype(float)
    counts[0] = -np.inf
    scores = []
    for user in data.test.uid_list.tolist():
        own = counts.copy()
        own[data.test.uid2history_item[user].numpy()] = -np.inf
        wanted = set(data.test.uid2positive_item[user].tolist())
        order = np.argsort(-own, kind="stable")[:10]
        gained = sum(1 / np.log2(place + 2) for place, item in enumerate(order) if item in wanted)
        scores.append(gained / sum(1 / np.log2(place + 2) for place in range(min(10, len(wanted)))))
    assert found["ndcg@10"] == pytest.approx(np.mean(scores), abs=0.03)  # equal counts come in any order

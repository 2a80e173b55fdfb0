"""Is the loss of each user what it says, and do attacks per user climb it?"""

from __future__ import annotations

import math

import pytest
import torch

from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.threats.adversarial.user_losses import TEMPERATURE, approximate_ndcg_loss, recommended
from tests.test_evaluation import outcome, threat, trained

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 0.5, 9.0], [1.0, -3.0, 0.2, 0.1, 0.4]], dtype=torch.float64)
LABELS = torch.tensor([[1, 0, 0, 1, 1], [0, 1, 0, 0, 0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, True, False], [True] * 5])


def slow(logits, labels, mask):
    """One user: sigmoids one by one, over candidates that are no padding."""
    kept = [j for j in range(len(logits)) if mask[j]]
    scores = [float(logits[j]) for j in kept]
    mean = sum(scores) / len(scores)
    width = TEMPERATURE * math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
    wanted = [n for n, j in enumerate(kept) if labels[j]]
    ranks = [
        1 + sum(1 / (1 + math.exp(-(s - scores[n]) / width)) for m, s in enumerate(scores) if m != n) for n in wanted
    ]
    best = sum(1 / math.log2(1 + place) for place in range(1, len(wanted) + 1))
    return 1 - sum(1 / math.log2(1 + rank) for rank in ranks) / best


def test_it_is_one_minus_approximate_ndcg_of_the_candidates():
    expected = [slow(*user) for user in zip(LOGITS, LABELS, MASK)]
    assert approximate_ndcg_loss(LOGITS, LABELS, MASK).tolist() == pytest.approx(expected, rel=1e-12)
    one_by_one = torch.func.vmap(approximate_ndcg_loss)(LOGITS, LABELS, MASK)  # as `Vectorized` takes it
    assert one_by_one.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_user_with_nothing_to_find_has_no_loss_and_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss = approximate_ndcg_loss(logits, torch.zeros_like(LABELS), MASK)
    loss.sum().backward()
    assert not loss.any() and not logits.grad.any()


def test_what_is_recommended_is_the_tenth_that_is_ranked_first():
    assert recommended(LOGITS, MASK).tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]  # the padding's 9.0 does not count
    many = torch.arange(40.0).unsqueeze(0)
    assert recommended(many, torch.ones_like(many, dtype=torch.bool)).nonzero()[:, 1].tolist() == [36, 37, 38, 39]


@pytest.mark.parametrize("labels", ["pseudo", "truth"])
@pytest.mark.parametrize("name", ["NeuMF", "SASRec"])
def test_attacks_per_user_climb_it(name, labels, settings):
    more = {"train_neg_sample_args": None} if name == "SASRec" else {}
    trainer, data = trained(RAWPConfig(config_dict=settings(name, defense="none", epochs=5, **more)))
    users = {"granularity": "row", "scope": "per_user", "labels": labels, "losses": ("training", "ranking")}
    records = outcome(trainer, data, threat(variants=("noise", "fgsm", "apgd"), iterations=4, **users)).records
    loss = {(r.loss, r.threat, r.level): r.value for r in records if r.metric == "loss"}
    for kind in ("training", "ranking"):
        assert loss[kind, "apgd", 0.5] > loss[kind, "noise", 0.5]
        assert loss[kind, "fgsm", 0.1] > loss[kind, "fgsm", 0.0] == loss[kind, "noise", 0.0]
    metric = {(r.loss, r.threat, r.level): r.value for r in records if r.metric == "ndcg@10"}
    assert {key[0] for key in metric} == {"", "training", "ranking"}
    assert metric["ranking", "apgd", 0.5] < metric["", "noise", 0.0]

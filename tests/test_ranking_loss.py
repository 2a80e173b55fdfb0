"""Is the ranking loss RecBole's metric, made smooth, with the gradient that it claims?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recbole_rawp.core.losses import ranking
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.ranking.measurement import measuring
from recbole_rawp.host.ranking.ranking_loss import RankingLoss, ranking_source
from recbole_rawp.host.weights import perturbed_weights
from tests.training import made

SCORES = torch.tensor(
    [[0.3, -torch.inf, 0.9, 0.3, -0.2, 1.4], [2.0, 2.0, -1.0, 0.5, -torch.inf, -torch.inf]], dtype=torch.float64
)
USERS, ITEMS = torch.tensor([0, 0, 1]), torch.tensor([0, 5, 0])


def slow_ranks(scores, users, items, temperature):
    smooth, exact = [], []
    for user, item in zip(users.tolist(), items.tolist()):
        row, own = scores[user].tolist(), float(scores[user, item])
        others = [s for j, s in enumerate(row) if j != item and s > -math.inf]
        exact.append(1 + sum(1.0 if s > own else 0.5 if s == own else 0.0 for s in others))
        smooth.append(1 + sum(1 / (1 + math.exp(-(s - own) / float(temperature[user]))) for s in others))
    return smooth, exact


def slow_ndcg(ranks, users, count):
    found = []
    for user in range(count):
        own = [rank for rank, whose in zip(ranks, users.tolist()) if whose == user]
        best = sum(1 / math.log2(1 + place) for place in range(1, len(own) + 1))
        found.append(sum(1 / math.log2(1 + rank) for rank in own) / best)
    return found


@pytest.mark.parametrize("entries", [2**22, 6])
def test_ranks_are_those_of_a_loop_in_pieces_too(entries, monkeypatch):
    monkeypatch.setattr(ranking, "ENTRIES", entries)
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    found = ranking.ranks(SCORES, USERS, ITEMS, temperature)
    smooth, exact = slow_ranks(SCORES, USERS, ITEMS, temperature)
    assert found.smooth.tolist() == pytest.approx(smooth, rel=1e-12)
    assert found.exact.tolist() == exact == [3.5, 1.0, 1.5]  # ties count half
    assert ranking.ndcg(found.smooth, USERS, 2).tolist() == pytest.approx(slow_ndcg(smooth, USERS, 2), rel=1e-12)


def test_ndcg_and_auc_have_their_closed_forms():
    one = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert ranking.ndcg(one, torch.zeros(3, dtype=torch.long), 1).item() == pytest.approx(1.0)
    assert ranking.ndcg(torch.tensor([3.0]).double(), torch.tensor([0]), 1).item() == pytest.approx(0.5)
    # Two positives at ranks 1 and 4 of five: the second is below two of the three negatives.
    pairs = ranking.overtaken(torch.tensor([1.0, 4.0]).double(), torch.tensor([0, 0]), torch.tensor([5.0]).double())
    assert pairs.item() == pytest.approx(2 / 6)
    labels = torch.tensor([1, 0, 1, 0, 0], dtype=torch.float64)
    scores = torch.tensor([0.9, 0.8, 0.3, 0.3, -4.0], dtype=torch.float64)
    found = ranking.misordered(scores, labels, torch.tensor(1e-6).double())
    assert found.exact.item() == pytest.approx(1 - roc_auc_score(labels, scores))
    assert found.smooth.item() == pytest.approx(found.exact.item())  # sharp enough, it is the exact one
    assert ranking.misordered(scores, torch.ones(5), torch.tensor(1.0)).exact.item() == 0.5


def test_smooth_forms_have_the_gradient_that_they_claim(monkeypatch):
    monkeypatch.setattr(ranking, "ENTRIES", 6)  # in pieces, which are computed again in the backward pass
    temperature = torch.tensor([0.5, 2.0], dtype=torch.float64)
    ranked = SCORES.isfinite()

    def ndcg(free):
        scores = torch.full_like(SCORES, -torch.inf).masked_scatter(ranked, free)
        return ranking.ndcg(ranking.ranks(scores, USERS, ITEMS, temperature).smooth, USERS, 2)

    assert torch.autograd.gradcheck(ndcg, (SCORES[ranked].clone().requires_grad_(),))
    labels = torch.tensor([1, 0, 1, 0, 0, 1, 0, 1, 0, 0])
    free = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: ranking.misordered(s, labels, torch.tensor(0.3)).smooth, (free,))


def test_the_spread_leaves_out_what_is_not_ranked():
    expected = [np.std([0.3, 0.9, 0.3, -0.2, 1.4]), np.std([2.0, 2.0, -1.0, 0.5])]
    assert ranking.spread(SCORES).tolist() == pytest.approx(expected)
    assert ranking.spread(torch.ones(1, 3)).item() > 0  # no division by zero


def test_ties_are_counted():
    assert ranking.tied(SCORES, USERS, ITEMS) == pytest.approx(2 / 11)  # of 4 + 4 + 3 others
    assert ranking.tied_rows(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1, 0, 0])) == 0.5


@pytest.fixture(autouse=True)
def double_precision():
    """Let what models make in their forward pass be float64, too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


CASES = {
    "NeuMF": {},
    "SASRec": {"train_neg_sample_args": None},
    "LightGCN": {"rawp_target": "embeddings"},
    "MultiVAE": {},
    "DCN": {"eval_args": {"mode": "labeled"}, "metrics": ["AUC"], "valid_metric": "AUC", "train_neg_sample_args": None},
    "NeuMF-uni": {"eval_args": {"mode": "uni5"}},
    "NeuMF-gauc": {"metrics": ["GAUC"], "valid_metric": "GAUC"},
    "DCN-logloss": {
        "eval_args": {"mode": "labeled"},
        "metrics": ["LogLoss"],
        "valid_metric": "LogLoss",
        "train_neg_sample_args": None,
    },
}


def built(case, settings, **more):
    """Return the trainer, the data and the ranking loss of a model in float64."""
    config = RAWPConfig(config_dict=settings(case.partition("-")[0], **({"defense": "none"} | CASES[case] | more)))
    trainer, data = made(config)
    trainer.model.double().eval()
    for name in {"norm_adj_matrix", "history_item_value"} & vars(trainer.model).keys():
        setattr(trainer.model, name, getattr(trainer.model, name).double())
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # off the kinks of ReLU, on which biases of 0 lie
        for weight in trainer.model.parameters():
            weight += 0.05 * torch.randn(weight.shape, dtype=weight.dtype, generator=generator)
    for loader in data:
        for name, values in loader._dataset.inter_feat.interaction.items():
            if values.dtype == torch.float32:
                loader._dataset.inter_feat.interaction[name] = values.double()
    source = ranking_source(trainer, data.train, data.valid, users=512, negatives=7)
    weights = perturbed_weights(trainer.model, config["rawp_target"])
    return trainer, data, AttackLoss(trainer.model, source, weights)


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_a_loop_over_users_and_items(case, settings):
    trainer, _, loss = built(case, settings)
    ranker = loss.source.forms[0].func.__self__
    assert isinstance(ranker, RankingLoss)
    values, weights = [], []
    for batch in loss.source.batches:
        weights.append(len(batch))
        if hasattr(batch, "places"):
            values.append(slow_users(trainer, ranker, batch, auc=case.endswith("gauc")))
        else:
            labels = batch.rows["label"]
            scores = trainer.model.predict(batch.rows).detach()
            mean = -(labels * scores.log() + (1 - labels) * (1 - scores).log()).mean().item()
            values.append(mean if case.endswith("logloss") else 1 - roc_auc_score(labels, scores))
    assert loss.value({}) == pytest.approx(np.average(values, weights=weights), rel=1e-6)


def slow_users(trainer, ranker, batch, *, auc):
    """Return the mean over users of 1 - NDCG, or of 1 - AUC, by RecBole's scores one user at a time."""
    scores = ranker.scores(batch).detach()
    if batch.columns is None:
        plain = trainer.model.full_sort_predict(batch.rows).detach().reshape(scores.shape)
        assert torch.equal(plain[scores.isfinite()], scores[scores.isfinite()])
        hidden = (~scores.isfinite()).nonzero().T
        assert set(zip(*hidden.tolist())) == set(zip(*(index.tolist() for index in batch.hidden)))
    found = []
    for user in range(len(batch)):
        row, places = scores[user].tolist(), batch.places[batch.users == user].tolist()
        ranked = [s for s in row if s > -math.inf]
        scale = (int(batch.everything[user]) - 1) / (len(ranked) - 1)
        above = [sum(1.0 if s > row[p] else 0.5 * (s == row[p]) for s in ranked) - 0.5 for p in places]
        if auc:
            negatives = [s for j, s in enumerate(row) if j not in places and s > -math.inf]
            wrong = [sum(1.0 if s > row[p] else 0.5 * (s == row[p]) for s in negatives) for p in places]
            found.append(sum(wrong) / (len(places) * len(negatives)))
        else:
            found.append(1 - slow_ndcg([1 + scale * a for a in above], torch.zeros(len(places)), 1)[0])
    return float(np.mean(found))


@pytest.mark.parametrize("case", CASES)
def test_its_gradient_is_that_of_finite_differences(case, settings):
    _, _, loss = built(case, settings)
    generator = torch.Generator().manual_seed(3)
    way = {n: torch.randn(w.shape, dtype=w.dtype, generator=generator) for n, w in loss.shapes.items()}
    slope = sum(float((g * way[n]).sum()) for n, g in loss.gradient(None).items())

    def smooth(step):
        with torch.no_grad(), loss.at({n: step * d for n, d in way.items()}):
            return sum(float(loss.source.forms[0](batch).climbed) for batch in loss.source.batches)

    step = 1e-6
    assert slope == pytest.approx((smooth(step) - smooth(-step)) / (2 * step), rel=1e-3, abs=1e-8)
    assert slope != 0


def test_users_without_anything_to_find_are_left_out(settings):
    _, data, loss = built("NeuMF", settings)
    ranked = sum(len(batch) for batch in loss.source.batches)
    assert ranked == len(data.valid.uid_list) < data.train._dataset.user_num
    assert all(torch.bincount(batch.users, minlength=len(batch)).min() >= 1 for batch in loss.source.batches)


@pytest.mark.parametrize("case", ["NeuMF", "SASRec", "MultiVAE", "DCN"])
def test_without_valid_data_the_training_positives_are_ranked(case, settings):
    trainer, data, _ = built(case, settings)
    source = ranking_source(trainer, data.train, None, users=4, negatives=7)
    assert 0 < AttackLoss(trainer.model, source, perturbed_weights(trainer.model, "hidden")).value({}) < 1
    if case != "DCN":
        assert sum(map(len, source.batches)) == 4


def test_fewer_users_are_drawn_the_same_on_every_call(settings):
    trainer, data, _ = built("MultiVAE", settings)
    one, two = (ranking_source(trainer, data.train, data.valid, users=3, negatives=7) for _ in range(2))
    assert [len(batch) for batch in one.batches] == [3]
    assert torch.equal(one.batches[0].rows["user_id"], two.batches[0].rows["user_id"])


def test_nothing_is_left_behind(settings):
    trainer, data, _ = built("MultiVAE", settings)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with measuring(trainer, *data):
        ranking_source(trainer, data.train, data.valid, users=3, negatives=7)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


def test_rows_without_labels_are_refused_in_one_line(settings):
    _, _, loss = built("DCN", settings)
    batch = loss.source.batches[0]
    bare = replace(batch, rows=type(batch.rows)({"user_id": batch.rows["user_id"]}))
    with pytest.raises(InputError, match="attack_loss: ranking needs labelled rows"):
        loss.source.forms[0].func.__self__.labels(bare)

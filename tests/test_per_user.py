"""Is each user attacked as published, and ranked as RecBole ranks?"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import each_user as users_scope
from recbole_rawp.evaluation import self_checks
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.ranking import candidates as ranking
from recbole_rawp.host.ranking.ranking_batches import rectangle
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.threats.adversarial.per_user import batch, engine_selection
from recbole_rawp.threats.adversarial.per_user.batch import along
from recbole_rawp.threats.adversarial.per_user.hooked import Hooked
from tests.per_user_models import TwoTower, attack_on, near, seeded
from tests.test_evaluation import outcome, threat, trained, values

NEGATIVES = 20
UNI = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "uni20"}


def user_threat(**options):
    fixed = {"granularity": "row", "scope": "per_user", "labels": "pseudo", "variants": ("noise", "fgsm")}
    return threat(**(fixed | options))


def one_by_one(trainer, data, radius, labels, target):
    """The oracle: for each user copy the model, take one gradient, write every row, rank; NDCG@10 and the loss."""
    config = trainer.config
    loader = ranking.sampled_loader(config, data.test, NEGATIVES)
    gains, losses, rows = [], [], 0
    with ranking.frozen(loader, ranking.draw(loader, 2020)):
        for interaction, owner, positive_u, positive_i in loader:
            for user in range(int(owner[-1]) + 1):
                own = interaction[owner == user]
                twin = copy.deepcopy(trainer.model).eval()
                users, items = own[config["USER_ID_FIELD"]], own[config["ITEM_ID_FIELD"]]
                logits = twin.forward(users, items)
                truth = own[config["LABEL_FIELD"]]
                y = truth if labels == "truth" else (torch.sigmoid(logits) > 0.5).float()
                weights = perturbed_weights(twin, target)
                loss = torch.logaddexp(torch.zeros_like(logits), (1 - 2 * y) * logits).sum()
                gradients = torch.autograd.grad(loss, list(weights.values()))
                with torch.no_grad():
                    for w, g in zip(weights.values(), gradients):
                        for row in range(len(w)):
                            if g[row].norm() > 0:
                                w[row] += radius * w[row].norm() * g[row] / g[row].norm()
                    scores = twin.forward(users, items)
                losses.append(float(functional.binary_cross_entropy_with_logits(scores, y, reduction="sum")))
                rows += len(scores)
                best = {}
                for item, score in zip(items.tolist(), scores.tolist()):
                    best[item] = score
                top = sorted(best, key=best.get, reverse=True)[:10]
                wanted = set(positive_i[positive_u == user].tolist())
                gain = sum(1 / np.log2(place + 2) for place, item in enumerate(top) if item in wanted)
                gains.append(gain / sum(1 / np.log2(place + 2) for place in range(min(10, len(wanted)))))
    return np.mean(gains), sum(losses) / rows


@pytest.mark.parametrize("target", ["hidden", "all"])
@pytest.mark.parametrize("labels", ["pseudo", "truth"])
def test_neumf_is_attacked_as_one_copy_per_user_would_be(labels, target, settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    found = outcome(trainer, data, user_threat(labels=labels, target=target, levels=(0.0, 0.1, 0.5)))
    assert not found.notes
    ndcg, loss = (values(found.records, "fgsm", metric) for metric in ("ndcg@10", "loss"))
    for radius in (0.0, 0.1, 0.5):
        expected_ndcg, expected_loss = one_by_one(trainer, data, radius, labels, target)
        assert ndcg[radius] == pytest.approx(expected_ndcg, abs=1e-6)
        assert loss[radius] == pytest.approx(expected_loss, rel=1e-4)
    assert loss[0.5] > loss[0.1] > loss[0.0]
    assert {r.labels for r in found.records} == {labels}


def test_scores_that_an_attack_drives_to_where_a_sigmoid_is_one_are_ranked_all_the_same(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    with torch.no_grad():
        for parameter in trainer.model.predict_layer.parameters():
            parameter *= 50
    found = outcome(trainer, data, user_threat(labels="truth", target="all", levels=(0.0, 0.3)))
    expected, loss = one_by_one(trainer, data, 0.3, "truth", "all")
    assert loss > 17  # a mean: most negatives score higher than where a float's sigmoid becomes 1
    assert values(found.records, "fgsm", "ndcg@10")[0.3] == pytest.approx(expected, abs=1e-6)


def test_radius_zero_is_recboles_own_evaluation_of_the_same_candidates(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10, eval_args=UNI)))
    own = ranking.draw(data.test, 2020)
    with ranking.frozen(data.test, own):
        result = trainer.evaluate(data.test, load_best_model=False)
    found = outcome(trainer, data, threat(), user_threat())
    for scope in ("universal", "per_user"):
        clean = {r.metric: r.value for r in found.records if r.level == 0 and r.scope == scope}
        for metric, value in result.items():
            assert round(clean[metric], 4) == value, scope
    statuses = {c.name: c.status for c in self_checks.verify(found, result, decimals=4)}
    assert statuses["level 0 equals RecBole's own evaluation"] == "passed"
    users = found.users
    np.testing.assert_array_equal(users["universal"].user, users["per_user"].user)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "LightGCN", "ConvNCF"])
def test_other_models_are_attacked_too_and_the_way_is_told(name, settings):
    config = {"eval_args": UNI, "defense": "none"} if name in ("LightGCN", "ConvNCF") else {"defense": "none"}
    if name == "ConvNCF":
        config |= {"embedding_size": 8, "cnn_channels": [1, 4, 4], "cnn_kernels": [2, 2], "cnn_strides": [2, 2]}
    trainer, data = trained(RAWPConfig(config_dict=settings(name, **config)))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    target = "embeddings" if name == "LightGCN" else "hidden"
    found = outcome(trainer, data, user_threat(target=target, levels=(0.0, 0.1)))
    loss = values(found.records, "fgsm", "loss"), values(found.records, "noise", "loss")
    assert loss[0][0.1] > loss[1][0.1] and loss[0][0.1] > loss[0][0.0]
    way = {"SASRec": None, "GRU4Rec": "loop", "LightGCN": "loop", "ConvNCF": None}[name]
    assert bool(found.notes) == bool(way) and (not way or f"users went by {way}" in found.notes[0])
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())


def test_several_steps_and_restarts_are_no_weaker(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    found = outcome(trainer, data, user_threat(variants=("fgsm", "bim", "pgd", "mim"), iterations=5, restarts=2))
    losses = {name: values(found.records, name, "loss")[0.5] for name in ("fgsm", "bim", "pgd", "mim")}
    assert min(losses["bim"], losses["pgd"], losses["mim"]) > losses["fgsm"]


def test_activations_are_moved_for_each_candidate(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", epochs=10)))
    found = outcome(trainer, data, user_threat(target="activations", labels="truth"))
    fgsm, noise = (values(found.records, name, "loss") for name in ("fgsm", "noise"))
    assert fgsm[0.5] > fgsm[0.1] > fgsm[0.0] and fgsm[0.1] > noise[0.1]


def test_labelled_rows_rank_nothing(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DeepFM", defense="none")))
    with pytest.raises(InputError, match="eval mode labeled has none"):
        outcome(trainer, data, user_threat())
    found = outcome(trainer, data, threat(), user_threat(optional=True))
    assert {r.scope for r in found.records} == {"universal"} and "eval mode labeled" in found.notes[0]


def test_candidates_of_users_with_few_are_padded():
    rows, mask = rectangle(torch.tensor([0, 0, 0, 1, 2, 2]))
    assert rows.tolist() == [[0, 1, 2], [3, 3, 3], [4, 5, 4]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]


def test_noise_comes_from_the_runs_seed_whatever_else_is_tried(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    first = outcome(trainer, data, user_threat()).records
    torch.rand(3)
    assert outcome(trainer, data, user_threat()).records == first
    more = outcome(trainer, data, user_threat(variants=("pgd", "noise"), levels=(0.0, 0.05, 0.1, 0.5))).records
    for radius in (0.1, 0.5):
        assert values(more, "noise", "loss")[radius] == values(first, "noise", "loss")[radius]


def test_hidden_layers_outside_predict_are_left_out_and_those_that_are_not_called_row_by_row_refused(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("MKR", defense="none")))
    found = outcome(trainer, data, threat(), user_threat(target="activations", optional=True))
    assert any("do not take part in predict" in note for note in found.notes)
    assert any("activations cannot be moved per user: cc_unit" in note for note in found.notes)
    assert {r.target for r in found.records} == {"hidden"}


def test_metrics_by_value_are_measured_per_user_too(settings):
    trainer, data = trained(RAWPConfig(config_dict=settings("DIN", defense="none", learning_rate=0.01)))
    candidates = ranking.draw(data.test, 2020)
    auc = values(outcome(trainer, data, user_threat(levels=(0.0, 0.5))).records, "fgsm", "auc")
    with ranking.frozen(data.test, candidates):
        assert auc[0.0] == pytest.approx(trainer.evaluate(data.test, load_best_model=False)["auc"], abs=0.51e-4)
    assert auc[0.5] != auc[0.0]


def test_a_model_that_cannot_score_single_items_is_refused_or_passed_over_with_the_reason(settings):
    options = {"reranker_CAN_NUM": 20, "train_neg_sample_args": None}
    trainer, data = trained(RAWPConfig(config_dict=settings("SASRecCPR", defense="none", epochs=1, **options)))
    with pytest.raises(InputError, match=r"per_user needs scores of single items, and SASRecCPR\.predict"):
        outcome(trainer, data, user_threat())
    assert "SASRecCPR.predict is not implemented" in outcome(trainer, data, user_threat(optional=True)).notes[0]


def test_written_out_attacks_go_by_as_many_users_as_memory_allows(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_batch_size=4096)))
    several = user_threat(variants=("fgsm", "bim", "noise"), target="all", iterations=3)
    together = outcome(trainer, data, several).records
    sizes = []

    class Noting(batch.UserBatch):
        def subset(self, users):
            sizes.append(len(users))
            return super().subset(users)

    monkeypatch.setattr(batch, "WRITTEN", 300_000)
    monkeypatch.setattr(users_scope, "UserBatch", Noting)
    apart = outcome(trainer, data, several).records
    assert len(sizes) > 5 and max(sizes) < 47
    for method in ("fgsm", "bim"):
        for metric in ("loss", "ndcg@10"):
            assert values(apart, method, metric) == pytest.approx(values(together, method, metric), rel=1e-5)
    assert values(apart, "noise", "loss")[0.5] == pytest.approx(values(together, "noise", "loss")[0.5], rel=0.1)


def test_users_pass_in_groups_that_stay_in_a_cache(settings, monkeypatch):
    trainer, data = trained(RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_batch_size=4096)))
    several = user_threat(variants=("fgsm", "pgd", "noise"), target="all", iterations=3)
    together = outcome(trainer, data, several).records
    monkeypatch.setattr(engine_selection, "CACHE", 100_000)
    sizes = []
    monkeypatch.setattr(batch, "along", lambda engine, *more: sizes.append(engine.batch.users) or along(engine, *more))
    apart = outcome(trainer, data, several).records
    assert 1 < max(sizes) < 47 and max(sizes) - min(sizes) < 5
    for method in ("fgsm", "pgd", "noise"):
        for metric in ("loss", "ndcg@10"):
            assert values(apart, method, metric) == pytest.approx(values(together, method, metric), rel=1e-5)


def attacked_one_by_one(c, rows, **options):
    """Return method -> logits and losses of each user at a radius of .3."""
    few = user_threat(levels=(0.0, 0.3), **options)
    return {key[0]: (logits, losses) for key, logits, losses in few.attacked(c, Hooked, 7, rows)}


@pytest.mark.parametrize("rows, sizes", [(1, [1] * 4), (13, [2, 2]), (18, [2, 2]), (24, [4])])
def test_each_user_gets_the_same_attack_in_every_group(rows, sizes):
    c = attack_on(seeded(TwoTower))
    assert [group.users for group in batch.grouped(c, rows)] == sizes
    methods = ("noise", "fgsm", "bim", "pgd")
    whole, apart = (attacked_one_by_one(c, number, variants=methods, iterations=3) for number in (None, rows))
    assert list(whole) == list(apart) == ["", "fgsm", "noise", "bim", "pgd"]
    for method, (logits, losses) in whole.items():
        near(apart[method][0], logits, 1e-12)
        near(apart[method][1], losses, 1e-12)
    assert not torch.equal(whole["pgd"][0], whole["bim"][0])


def test_parts_of_the_users_start_at_random_places_of_their_own(monkeypatch):
    c = attack_on(seeded(TwoTower), ragged=False).subset(torch.zeros(4, dtype=torch.long))  # one user, four times
    monkeypatch.setattr(batch, "WRITTEN", 1)
    found = attacked_one_by_one(c, None, variants=("noise", "bim", "pgd"), iterations=1)
    for method, alike in (("noise", True), ("bim", True), ("pgd", False)):
        others = found[method][0][1:]
        assert all(torch.allclose(found[method][0][0], other) == alike for other in others), method

"""Are the same items ranked every time, none twice, none that the user is known to like?"""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.trainer import Trainer

from recbole_rawp.core import restoring
from recbole_rawp.core.restoring import SEED
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.each_user import EachUser
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.ranking import candidates
from recbole_rawp.host.ranking.ranking_batches import once, with_candidates

GENERAL = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user"}
SEQUENTIAL = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
RANKING = {"metrics": ["Hit", "NDCG"], "valid_metric": "NDCG@10", "topk": [10]}
KINDS = {
    "NeuMF": {"eval_args": GENERAL},
    "LightGCN": {"eval_args": GENERAL},
    "MultiVAE": {"eval_args": GENERAL},
    "MKR": {"eval_args": GENERAL},
    "SASRec": {"eval_args": SEQUENTIAL},
    "SASRecF": {"eval_args": SEQUENTIAL},
    "DeepFM": {
        "eval_args": GENERAL,
        "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1, "alpha": 1.0},
        "load_col": {"inter": ["user_id", "item_id"], "user": ["user_id", "age"], "item": ["item_id", "genre"]},
        "threshold": None,
    },
}


def built(settings, name="NeuMF", mode="uni20", **overrides):
    args = KINDS[name]["eval_args"] | overrides.pop("eval_args", {}) | {"mode": mode}
    extra = {**KINDS[name], **RANKING, "defense": "none", **overrides, "eval_args": args}
    config = RAWPConfig(config_dict=settings(name, **extra))
    data, model = prepare(config)
    return Trainer(config, model), data.test


def labelled(settings):
    config = RAWPConfig(config_dict=settings("DeepFM", defense="none"))
    data, model = prepare(config)
    return Trainer(config, model), data.test


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[user], other[user]) for user in one)


def positives(loader):
    rows = loader._dataset.inter_feat
    found = {}
    for user, item in zip(rows[loader.uid_field].tolist(), rows[loader.iid_field].tolist()):
        found.setdefault(user, []).append(item)
    return found


CASES = [
    ("NeuMF", "uni20", {}),
    ("NeuMF", "pop5", {}),
    ("MKR", "uni20", {}),
    ("SASRec", "uni20", {}),
    ("SASRec", "pop20", {}),
    ("SASRec", "uni9", {"eval_args": {"split": {"RS": [0.6, 0.1, 0.3]}}}),  # several rows of a user
]


@pytest.mark.parametrize(("name", "mode", "overrides"), CASES)
def test_every_user_gets_distinct_negatives_and_none_of_his_positives(name, mode, overrides, settings):
    _, loader = built(settings, name, mode, **overrides)
    drawn, own = candidates.draw(loader, 1), positives(loader)
    assert drawn.keys() == own.keys() and len(own) == 47
    for user, items in drawn.items():
        assert len(items) == len(set(items)) == int(mode[3:]) * len(own[user])
        assert not set(items) & set(own[user]) and items.min() > 0 and items.max() < loader._dataset.item_num
        if name != "SASRec":  # a sequential model may meet an item again
            assert not set(items) & loader._sampler.used_ids[user]
    assert min(map(len, own.values())) > 1 or not overrides
    assert len({tuple(items) for items in drawn.values()}) == 47


def test_general_models_rank_nothing_from_the_users_history(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", defense="none", eval_args=GENERAL | {"mode": "uni20"}))
    data, _ = prepare(config)
    drawn = candidates.draw(data.test, 1)
    for loader in (data.train, data.valid, data.test):
        rows = loader._dataset.inter_feat
        for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist()):
            assert item not in drawn[user]


@pytest.mark.parametrize("name", ["NeuMF", "SASRec"])
def test_the_draw_depends_on_its_seed_alone_and_leaves_no_trace(name, settings):
    _, loader = built(settings, name)
    before = restoring.rng_state()
    expected = torch.rand(1), np.random.rand(), random.random()
    restoring.set_rng_state(before)
    first = candidates.draw(loader, 1)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    list(loader)  # RecBole's own negatives
    assert same(candidates.draw(loader, 1), first)
    assert not same(candidates.draw(loader, 2), first)


def test_a_small_pool_is_used_up_and_then_repeated(settings):
    _, loader = built(settings, mode="uni99")
    for user, items in candidates.draw(loader, 1).items():
        pool = set(range(1, 62)) - loader._sampler.used_ids[user]
        assert len(items) == 99 * loader.uid2items_num[user]
        assert set(items[: len(pool)]) == pool
        assert np.array_equal(items, np.resize(items[: len(pool)], len(items)))


def test_an_item_counts_once_in_its_row_unless_it_is_sought():
    items = torch.tensor([[7, 7, 3, 5, 3, 7], [1, 2, 1, 2, 9, 9]])
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    sought = torch.tensor([[True, True] + [False] * 4, [False] * 6])
    assert once(items, mask, sought).int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]]


def test_repeated_candidates_count_once_in_the_losses_of_attacks(settings):
    trainer, loader = built(settings, mode="uni99")
    drawn = candidates.draw(loader, SEED)
    pools = [len(set(drawn[user].tolist())) + int(loader.uid2items_num[user]) for user in sorted(drawn)]
    each, threat = EachUser(trainer, loader, 99, drawn), SimpleNamespace(target="hidden", labels="truth")
    counted, rows = [], 0
    with candidates.frozen(loader, drawn):
        for batch in loader:
            users, mask = each._users(batch, threat, "training", {})
            counted += users.mask.sum(1).tolist()
            rows += int(mask.sum())
    assert sorted(counted) == sorted(pools) and sum(pools) < rows
    parts = list(with_candidates(loader, len(pools), trainer.device))
    assert sorted(int(n) for part in parts for n in part.everything) == sorted(pools)
    assert all(torch.equal((part.columns >= 0).sum(1), part.everything) for part in parts)


@pytest.mark.parametrize("name", ["NeuMF", "SASRec"])
def test_recboles_evaluation_is_the_same_twice_inside_frozen_and_differs_outside(name, settings):
    trainer, loader = built(settings, name)
    sampler, chosen = loader._sampler, candidates.draw(loader, 1)
    results = [trainer.evaluate(loader, load_best_model=False) for _ in range(4)]
    assert any(result != results[0] for result in results)
    with candidates.frozen(loader, chosen):
        inside = [trainer.evaluate(loader, load_best_model=False) for _ in range(2)]
        np.random.seed(7)
        inside.append(trainer.evaluate(loader, load_best_model=False))
    assert inside[0] == inside[1] == inside[2]
    assert loader._sampler is sampler
    with pytest.raises(ZeroDivisionError), candidates.frozen(loader, chosen):
        raise ZeroDivisionError
    assert loader._sampler is sampler


def test_the_frozen_loader_gives_exactly_the_candidates(settings):
    _, loader = built(settings)
    chosen, own, seen = candidates.draw(loader, 1), positives(loader), {}
    with candidates.frozen(loader, chosen):
        for batch, *_ in loader:
            for user, item, label in zip(*(batch[field].tolist() for field in ("user_id", "item_id", "label"))):
                seen.setdefault(user, ([], []))[int(label)].append(item)
    for user, (negatives, found) in seen.items():
        assert negatives == chosen[user].tolist() and found == own[user]
    assert seen.keys() == chosen.keys()


@pytest.mark.parametrize("name", ["NeuMF", "SASRec", "DeepFM"])
def test_there_is_nothing_to_freeze_without_sampling(name, settings):
    trainer, loader = labelled(settings) if name == "DeepFM" else built(settings, name, "full")
    assert not candidates.samples(loader)
    expected = trainer.evaluate(loader, load_best_model=False)
    with candidates.frozen(loader, {}):
        assert trainer.evaluate(loader, load_best_model=False) == expected


@pytest.mark.parametrize("name", KINDS)
def test_a_full_ranking_can_be_sampled_and_stays_as_it_was(name, settings):
    trainer, loader = built(settings, name, "full")
    config, dataset = trainer.config, loader._dataset
    dataset.inter_feat.shuffle()  # else sorting the rows in place would not show
    expected = trainer.evaluate(loader, load_best_model=False)
    arguments, sampler = copy.deepcopy(config["test_neg_sample_args"]), loader._sampler
    rows = {field: values.clone() for field, values in dataset.inter_feat.interaction.items()}
    fields = dict(dataset.field2type)
    sampled = candidates.sampled_loader(config, loader, 9)
    assert candidates.samples(sampled)
    chosen = candidates.draw(sampled, 1)
    with candidates.frozen(sampled, chosen):
        result = trainer.evaluate(sampled, load_best_model=False)
        assert result == trainer.evaluate(sampled, load_best_model=False) != expected
    assert {len(items) for items in chosen.values()} <= {9, 18} and len(chosen) == 47
    assert positives(sampled).keys() == positives(loader).keys()
    assert config["test_neg_sample_args"] == arguments and loader._dataset is dataset and loader._sampler is sampler
    assert dataset.field2type == fields
    assert all(torch.equal(dataset.inter_feat[field], values) for field, values in rows.items())
    assert trainer.evaluate(loader, load_best_model=False) == expected


def test_all_items_sampled_rank_as_the_full_ranking_does(settings):
    """The oracle: with every item of the pool among the candidates, sampled and full metrics are the same number."""
    trainer, loader = built(settings, "NeuMF", "full")
    sampled = candidates.sampled_loader(trainer.config, loader, 99)
    with candidates.frozen(sampled, candidates.draw(sampled, 1)):
        result = trainer.evaluate(sampled, load_best_model=False)
    assert result == trainer.evaluate(loader, load_best_model=False)


def test_a_loader_that_samples_is_returned_as_it_is_and_labelled_rows_are_refused(settings):
    trainer, loader = built(settings)
    assert candidates.sampled_loader(trainer.config, loader, 9) is loader
    trainer, loader = labelled(settings)
    assert isinstance(loader, NegSampleEvalDataLoader)
    with pytest.raises(InputError, match="attack_scope: per_user ranks candidates, and eval mode labeled has none"):
        candidates.sampled_loader(trainer.config, loader, 9)


@pytest.fixture
def one_out(settings):
    """A loader with one test positive for each user."""
    return built(settings, eval_args={"split": {"LS": "valid_and_test"}})[1]


def test_candidates_that_do_not_fit_are_refused(one_out):
    chosen, (user, (own,)) = candidates.draw(one_out, 1), next(iter(positives(one_out).items()))
    token, item = one_out._dataset.id2token("user_id", user), one_out._dataset.id2token("item_id", own)
    absent = {other: items for other, items in chosen.items() if other != user}
    for wrong, message in [
        (absent, f"there are none for user '{token}'"),
        (chosen | {user: chosen[user][:19]}, f"user '{token}' has 19, and 20 are ranked"),
        (chosen | {user: np.append(chosen[user][:19], own)}, f"'{item}' is to be found by user '{token}'"),
    ]:
        with pytest.raises(InputError, match=message), candidates.frozen(one_out, wrong):
            raise AssertionError("must not begin")
    assert same(candidates.check(chosen, one_out), chosen)


def test_a_full_ranking_is_sampled_uniformly_also_where_training_draws_by_popularity(settings):
    args = {"distribution": "popularity", "sample_num": 1, "alpha": 1.0}
    trainer, loader = built(settings, "NeuMF", "full", train_neg_sample_args=args)
    assert candidates.sampled_loader(trainer.config, loader, 9)._sampler.distribution == "uniform"

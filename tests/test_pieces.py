"""Are all items ranked with bounded memory, and with the scores that RecBole computes?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer

from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.ranking.item_chunks import in_pieces

SEQUENTIAL = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
RANKING = {"metrics": ["Hit", "NDCG"], "valid_metric": "NDCG@10", "topk": [10]}
ROWS = 200  # eval_batch_size: 200 users are all 47, and 47 x 62 rows are many batches


def built(settings, name="DIN", model=None, **overrides):
    overrides = {"eval_batch_size": ROWS, "defense": "none", "eval_args": SEQUENTIAL, **RANKING, **overrides}
    config = RAWPConfig(config_dict=settings(name, **overrides))
    data, built = prepare(config)
    if model:
        torch.manual_seed(0)
        built = model(config, data.train._dataset)
    return Trainer(config, built), data


def watched(trainer, data, monkeypatch):
    """Evaluate; return the metrics, the scores, and the most rows in one call of predict or one Interaction."""
    scores, rows = [], []
    predict, collect = trainer.model.predict, trainer.eval_collector.eval_batch_collect

    def recorded(interaction):
        rows.append(len(interaction))
        return predict(interaction)

    def collected(values, *rest):
        scores.append(values.clone())
        return collect(values, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.model, "predict", recorded)
        patch.setattr(trainer.eval_collector, "eval_batch_collect", collected)
        result = trainer.evaluate(data.test, load_best_model=False)
    return result, torch.cat(scores), rows


class SASRecByRows(SASRec):
    """A sequential model that only scores given items."""

    def full_sort_predict(self, interaction):
        raise NotImplementedError


@pytest.mark.parametrize(("name", "model"), [("DIN", None), ("SASRec", SASRecByRows)])
def test_the_scores_are_bit_equal_and_the_rows_are_never_all_there(name, model, settings, monkeypatch):
    trainer, data = built(settings, name, model)
    made = []  # the number of rows in every Interaction
    make = Interaction.__init__
    monkeypatch.setattr(Interaction, "__init__", lambda self, fields: (make(self, fields), made.append(len(self)))[0])
    expected, expected_scores, expected_rows = watched(trainer, data, monkeypatch)
    assert max(made) == 47 * 62
    made.clear()
    with in_pieces(trainer):
        result, scores, rows = watched(trainer, data, monkeypatch)
    assert max(made) == ROWS
    assert result == expected
    assert torch.equal(scores, expected_scores) and scores.shape == (47, 62)
    assert rows == expected_rows and max(rows) == ROWS and len(rows) == -(-47 * 62 // ROWS)


def test_a_batch_smaller_than_one_users_items_works_too(settings, monkeypatch):
    trainer, data = built(settings, eval_batch_size=7)
    expected, expected_scores, _ = watched(trainer, data, monkeypatch)
    with in_pieces(trainer):
        result, scores, rows = watched(trainer, data, monkeypatch)
    assert result == expected and torch.equal(scores, expected_scores) and max(rows) == 7


@pytest.mark.parametrize("name", ["SASRec", "NeuMF"])
def test_other_models_and_loaders_are_evaluated_as_before(name, settings, monkeypatch):
    overrides = {"eval_args": SEQUENTIAL | {"split": {"RS": [0.8, 0.1, 0.1]}}} if name == "NeuMF" else {}
    trainer, data = built(settings, name, **overrides)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    expected, expected_scores, _ = watched(trainer, data, monkeypatch)
    with in_pieces(trainer):
        result, scores, _ = watched(trainer, data, monkeypatch)
    assert result == expected and torch.equal(scores, expected_scores)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_the_trainer_is_its_own_again_afterwards_also_after_an_error(settings):
    trainer, _ = built(settings)
    with pytest.raises(ZeroDivisionError), in_pieces(trainer):
        assert "_full_sort_batch_eval" in vars(trainer)
        with in_pieces(trainer):  # nested: the outer one stays
            pass
        assert "_full_sort_batch_eval" in vars(trainer)
        raise ZeroDivisionError
    assert "_full_sort_batch_eval" not in vars(trainer)


def test_a_trainer_with_a_ranking_of_its_own_keeps_it(settings):
    class Own(Trainer):
        def _full_sort_batch_eval(self, batched_data):
            raise AssertionError("mine")

    trainer, data = built(settings)
    own = Own(trainer.config, trainer.model)
    with in_pieces(own), pytest.raises(AssertionError, match="mine"):
        own.evaluate(data.test, load_best_model=False)

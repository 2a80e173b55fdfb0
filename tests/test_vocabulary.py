"""The weights with a row or column per token are found, and none whose width is such a number by chance."""

from __future__ import annotations

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import get_model, get_trainer
from torch import nn

from recbole_rawp.core.selection import TARGETS
from recbole_rawp.host import vocabulary
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights, weight_table
from recbole_rawp.training.registration import robustify
from tests.toy_data import ITEMS, USERS

USERS, ITEMS = USERS + 1, ITEMS + 1  # with padding
CHANCE = {"mlp_hidden_size": [USERS, 16], "mf_embedding_size": 8, "mlp_embedding_size": 8}


class Mine(GeneralRecommender):
    """A user's own model: tables in whatever modules, and layers whose widths are numbers of tokens by chance."""

    made = 0

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        Mine.made += 1
        print("made"), self.logger.warning("made")
        random.random(), np.random.rand(), torch.rand(1)
        config["mlp_hidden_size"].append(1)
        self.items = nn.Linear(self.n_items, 3)
        self.items_and_mask = nn.Linear(3, self.n_items + 1)
        self.everybody = nn.Parameter(torch.zeros(self.n_users + self.n_items, 2))
        self.padded = nn.Linear(3, 8 * -(-self.n_items // 8))
        self.ages = nn.Parameter(torch.zeros(3, dataset.num("age")))
        self.embedding = nn.Embedding(4, 3)
        self.width_of_users = nn.Linear(3, USERS)
        self.width_of_both = nn.Linear(3, USERS + ITEMS)
        self.narrow = nn.Linear(3, min(12, self.n_items))
        self.sequence = nn.Linear(len(dataset.inter_feat.interaction), 3)


class Picky(Mine):
    """A model that knows its own data set only."""

    def __init__(self, config, dataset):
        assert dataset.num("user_id") == USERS, "I know my users"
        super().__init__(config, dataset)


TABLES = ["everybody", "ages", "items.weight", "items_and_mask.weight", "padded.weight", "embedding.weight"]
HIDDEN = ["width_of_users.weight", "width_of_both.weight", "narrow.weight", "sequence.weight"]


def made(settings, model_class, **overrides):
    """Return a model on the toy data, RecBole's config and its loaders."""
    config = Config(config_dict=settings("NeuMF", **{"mlp_hidden_size": [5], **overrides}))
    train = data_preparation(config, create_dataset(config))[0]
    return model_class(config, train._dataset), config, train


def test_a_hidden_layer_as_wide_as_the_users_are_many_is_hidden(settings):
    _, model = prepare(RAWPConfig(config_dict=settings("NeuMF", **CHANCE)))
    hidden = ["mlp_layers.mlp_layers.1.weight", "mlp_layers.mlp_layers.4.weight", "predict_layer.weight"]
    assert list(perturbed_weights(model, "hidden")) == hidden
    assert vocabulary.by_size(model, "").names >= set(hidden[:2])  # what exact sizes miss


@pytest.mark.parametrize("few", [vocabulary.FEW, 8])  # of 8, 16 items, min(12, n_items) takes one step along
def test_a_users_own_model_is_told_apart(settings, monkeypatch, few):
    monkeypatch.setattr(vocabulary, "FEW", few), monkeypatch.setattr(vocabulary, "MORE", few)
    model, config, train = made(settings, Mine)
    vocabulary.note(model, config, train._dataset)
    found = {target: set(perturbed_weights(model, target)) for target in TARGETS}
    assert found == {"hidden": set(HIDDEN), "embeddings": set(TABLES), "all": {*HIDDEN, *TABLES}}


def test_looking_changes_nothing_says_nothing_and_is_done_once(settings, capsys, caplog):
    model, config, train = made(settings, Mine)
    dataset, before = train._dataset, Mine.made
    ids, rows = (
        dict(dataset.field2id_token),
        {key: value.clone() for key, value in dataset.inter_feat.interaction.items()},
    )
    values = deepcopy(config.final_config_dict)
    capsys.readouterr(), caplog.clear()
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    vocabulary.note(model, config, dataset)
    assert [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()] == states
    assert capsys.readouterr() == ("", "") and not caplog.records
    assert config.final_config_dict == values and dataset.config is config
    assert dataset.field2id_token == ids and all(torch.equal(dataset.inter_feat[key], rows[key]) for key in rows)
    built = Mine.made
    vocabulary.note(model, config, dataset)
    assert before < built == Mine.made


def test_a_model_that_cannot_be_built_on_stand_ins_goes_by_exact_sizes_and_the_table_says_so(settings):
    model, config, train = made(settings, Picky)
    vocabulary.note(model, config, train._dataset)
    weights = perturbed_weights(model, "hidden")
    assert not {"width_of_users.weight", "items.weight"} & weights.keys() and "items_and_mask.weight" in weights
    table = weight_table(model, weights, dict.fromkeys(weights, 1.0), "awp")
    assert "as large as the number of users" in table and "AssertionError: I know my users" in table
    _, model = prepare(RAWPConfig(config_dict=settings("NeuMF")))
    assert vocabulary.BY_STAND_INS in weight_table(model, {}, {}, "awp")


def test_recboles_own_run_finds_them_when_it_brings_its_data(settings, caplog):
    caplog.set_level("INFO")
    model, config, train = made(settings, get_model("NeuMF"), defense="awp", epochs=1, **CHANCE)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], "NeuMF"))(config, model)
    assert "the data set is not at hand" in vocabulary.tables(model).rule
    assert len(perturbed_weights(model, "hidden")) == 1
    trainer.fit(train, saved=False)
    assert "Defense awp perturbs 3 weights of NeuMF" in caplog.text and vocabulary.BY_STAND_INS in caplog.text


@pytest.mark.parametrize(
    "name", ["NeuMF", "SASRec", "DCN", "MultiVAE", "RecVAE", "BERT4Rec", "FDSA", "DIN", "MKR", "RippleNet", "KGCN"]
)
def test_models_of_every_kind_run_on_stand_ins_and_have_the_tables_that_their_sizes_tell(settings, name):
    _, model = prepare(RAWPConfig(config_dict=settings(name)))
    assert vocabulary.tables(model).rule == vocabulary.BY_STAND_INS
    by_size = vocabulary.Tables(vocabulary.by_size(model, "").names, "")
    found = [set(perturbed_weights(model, target)) for target in ("hidden", "embeddings")]
    vocabulary._noted[model] = by_size
    assert found == [set(perturbed_weights(model, target)) for target in ("hidden", "embeddings")]

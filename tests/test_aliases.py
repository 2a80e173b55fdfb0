"""Weights that a model keeps elsewhere too are changed there, or what is not reached is told."""

from __future__ import annotations

import pytest
import torch
from recbole.config import Config

import recbole_rawp
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.reached import check_reached
from recbole_rawp.jobs.measuring import check_attack
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests import own_models
from tests.training import same

OPTIONS = {"epochs": 2, "ft_epochs": 1, "ft_rounds": 1}


def ready(settings, cls, defense="awp", **options):
    """Return config, data and model."""
    given = {key: value for key, value in settings("NeuMF", defense=defense, **options).items() if key != "model"}
    config = RAWPConfig(cls, config_dict=given)
    return config, *prepare(config)


def trained(settings, cls, **options):
    """Return the trainer and the weights of the parameters of MyDeep."""
    config, data, model = ready(settings, cls, **OPTIONS | options)
    trainer = RAWPFTTrainer(config, model)
    trainer.fit(data.train, data.valid)
    return trainer, {name: value.clone() for name, value in model.state_dict().items()}


def test_weights_in_a_list_are_hardened_as_they_are_in_their_layers(settings):
    (_, expected), (trainer, weights) = (trained(settings, cls) for cls in (own_models.MyDeep, own_models.Listed))
    assert expected.keys() == weights.keys() and trainer.state.progress is not None
    assert all(torch.allclose(weights[name], expected[name], atol=1e-5) for name in expected)
    plain = trained(settings, own_models.Listed, defense="none", ft_rounds=0)[1]
    assert not same(plain, weights)


def test_the_very_same_objects_return_to_lists_and_tuples():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)
            self.listed, self.named = [self.layer.weight, 3], {"a": (self.layer.weight, "b")}
            self.__dict__["bare"] = self.layer.weight

    model, other = Holder(), torch.zeros(2, 2)
    weight, pair = model.layer.weight, model.named["a"]
    with pytest.raises(KeyError), overlay(model, {"layer.weight": other}):
        assert model.listed[0] is model.named["a"][0] is model.bare is model.layer.weight is other
        raise KeyError
    assert model.listed == [weight, 3] and model.named["a"] is pair and model.bare is weight is model.layer.weight


def test_a_cached_weight_is_no_parameter_of_the_model(settings):
    trainer, weights = trained(settings, own_models.Caching)
    assert "restore_item_e" not in weights and trainer.state.progress is not None
    assert "restore_item_e" not in torch.load(trainer.saved_model_file, weights_only=False)["state_dict"]


def test_a_weight_with_two_names_from_the_start_keeps_both(settings):
    class Twice(own_models.MyDeep):
        def __init__(self, config, dataset):
            super().__init__(config, dataset)
            self.restore_item_e = self.items.weight

    config, data, model = ready(settings, Twice, rawp_target="embeddings", **OPTIONS | {"epochs": 1})
    RAWPFTTrainer(config, model).fit(data.train, data.valid, saved=False)
    assert model.restore_item_e is model.items.weight and "restore_item_e" in model.state_dict()


def test_a_weight_that_no_change_reaches_is_told_once_and_alone_refused(settings, caplog):
    config, data, model = ready(settings, own_models.Half)
    weights = {"layers.0.weight": model.layers[0].weight}
    with pytest.raises(InputError, match="^model: Half does not take layers.0.weight from where its parameters are"):
        check_reached(model, weights, data.train, config["device"])
    state = torch.get_rng_state()
    for _ in range(2):
        check_attack(config, model, data)
    assert torch.equal(state, torch.get_rng_state()) and caplog.text.count("no change of ours reaches its loss") == 1
    strict = RAWPFTTrainer(config.but(rawp_target="layers.0.weight"), model)
    with pytest.raises(InputError, match="does not take layers.0.weight"):
        strict.fit(data.train, data.valid, saved=False)


def test_what_is_compiled_is_refused_and_under_register_plain(settings, caplog):
    with pytest.raises(InputError, match="^model: layers of Scripted is TorchScript, in which no weight"):
        ready(settings, own_models.Scripted)
    config, data, _ = ready(settings, own_models.MyDeep, epochs=1)
    model = own_models.Scripted(config, data.train._dataset)
    given = {key: value for key, value in settings("NeuMF", epochs=1).items() if key != "model"}
    recbole_rawp.register()
    try:
        from recbole.trainer import Trainer

        trainer = Trainer(Config(own_models.Scripted, config_dict=given), model)
        trainer.fit(data.train, data.valid, saved=False)
    finally:
        recbole_rawp.unregister()
    assert caplog.text.count("Training plainly") == 1 and robustify(Trainer) is RAWPFTTrainer

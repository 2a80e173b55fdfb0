"""Quirks of RecBole's models register themselves, and everyone asks them through `host.quirks`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recbole_rawp.errors import InputError
from recbole_rawp.host import quirks
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.quirks import kd_dagfm, registry
from recbole_rawp.host.quirks.earlier_runs import pretrained


class Odd(nn.Module):
    """A model of nobody's."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def calculate_loss(self, batch):
        return (torch.tensor(1.0), torch.tensor(2.0))

    def load_other_parameter(self, parameters):
        self.seen.append("loaded")


@pytest.fixture
def odd(monkeypatch):
    """A model with a quirk that is registered as a new file would."""
    monkeypatch.setattr(registry, "QUIRKS", registry.QUIRKS[:])

    @registry.register
    class Oddness(registry.Quirk):
        def fits(self, model):
            return isinstance(model, Odd)

        def loss(self, model, loss):
            return lambda batch: loss(batch)[1]

        def counted(self, trainer, loss, epoch):
            return (lambda batch: loss(batch)[:1]) if epoch == 0 else loss

        def settle(self, model):
            model.seen.append("settled")

        def after_load(self, model):
            model.seen.append("made anew")

        def check(self, model):
            raise InputError("odd: 1")

        def pretrains(self, model):
            return True

    return Odd()


def test_a_new_quirk_is_one_class_that_everyone_asks(odd):
    assert quirks.training_loss(odd)(None) == 2
    trainer = SimpleNamespace(model=odd)
    assert [len(quirks.counted(trainer, odd.calculate_loss, epoch)(None)) for epoch in (0, 1)] == [1, 2]
    quirks.settle(odd)
    with quirks.modules_kept(odd):
        odd.load_other_parameter(None)
    assert odd.seen == ["settled", "loaded", "settled", "made anew"] and "load_other_parameter" not in vars(odd)
    assert quirks.pretraining(odd)
    with pytest.raises(InputError, match="odd: 1"):
        quirks.check_built(odd)


def test_a_model_without_quirks_is_left_alone():
    model = Odd()
    assert registry.quirks_of(model) == [] and not quirks.pretraining(model)
    assert quirks.training_loss(model) == model.calculate_loss
    assert quirks.counted(SimpleNamespace(model=model), model.calculate_loss, 0) == model.calculate_loss
    quirks.settle(model)
    quirks.check_built(model)
    assert model.seen == []


def test_every_file_registered_its_quirk_once():
    names = [type(quirk).__name__ for quirk in registry.QUIRKS]
    assert sorted(names) == sorted(set(names)) and len(names) == 7
    assert set(pretrained()) == {"S3Rec", "RaCT", "KD_DAGFM", "ConvNCF"}


def test_a_users_own_subclass_has_the_quirk_of_its_model(settings):
    from recbole.model.general_recommender import RecVAE

    from recbole_rawp.host.preparation import prepare

    class Mine(RecVAE):
        """A user's own model."""

    config = RAWPConfig(config_dict=settings("RecVAE", defense="none"))
    data, _ = prepare(config)
    loss = quirks.training_loss(Mine(config, data.train._dataset))
    assert loss.keywords == {"encoder_flag": False}


def test_a_teacher_is_one_of_recboles_networks_for_its_name_is_evaluated():
    quirk = next(quirk for quirk in registry.QUIRKS if isinstance(quirk, kd_dagfm.Distillation))
    for name in ("DAGFM", "CrossNet", "CIN"):
        quirk.check_settings({"model": "KD_DAGFM", "teacher": name})
    for name in ("print(1)", "KD_DAGFM", None):
        with pytest.raises(InputError, match="none of RecBole's, which are DAGFM, CrossNet, CIN"):
            quirk.check_settings({"model": "KD_DAGFM", "teacher": name})

"""A loss that the trainer has and the model has not serves stage 2, criticality and attacks; else a line says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer

from recbole_rawp import attack_checkpoint, rank_checkpoint
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.rehearsal import check_training
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.seams.training_loss import loss_of
from tests.own_models import Lossless, LossOfTwo, MyDeep
from tests.own_trainers import OwnLoss, Passing, ShortLoop
from tests.training import QUICK, same


def ready(settings, cls, **options):
    given = {**settings("NeuMF", epochs=1, ft_epochs=1, checkpoint_dir="saved", **options)}
    del given["model"]
    config = RAWPConfig(cls, config_dict=given)
    return config, *prepare(config)


def fitted(settings, cls, base):
    """Return the trainer after both stages."""
    config, data, model = ready(settings, cls)
    trainer = robustify(base)(config, model)
    trainer.fit(data.train, data.valid)
    return trainer


@pytest.mark.parametrize("cls", [Lossless, LossOfTwo])
def test_both_stages_go_by_the_trainers_loss_as_by_the_models(settings, cls):
    usual, passed = fitted(settings, MyDeep, robustify(ShortLoop)), fitted(settings, cls, Passing)
    rows = [[(row.module, row.rise) for row in trainer.state.progress.ranking] for trainer in (usual, passed)]
    assert rows[0] == rows[1] and same(usual.model.state_dict(), passed.model.state_dict())


def test_commands_for_its_checkpoint_ask_the_trainer_or_say_what_is_missing(settings, monkeypatch):
    file = fitted(settings, Lossless, Passing).saved_model_file
    with pytest.raises(InputError, match="^model: calculate_loss of Lossless cannot be called with a batch alone, and"):
        rank_checkpoint(file)
    monkeypatch.setattr("recbole.trainer.LosslessTrainer", Passing, raising=False)
    assert rank_checkpoint(file, config_dict={"rawp_output_dir": "rank"})["rows"]
    assert attack_checkpoint(file, config_dict=QUICK | {"attack": ["fgsm"], "rawp_output_dir": "out"})["records"]
    assert Path("out/report.md").exists()


def test_a_field_that_a_trainers_loss_adds_to_the_batch_is_not_missed(settings, monkeypatch):
    class Adding(Trainer):
        def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
            def added(batch):
                batch.update(Interaction({"weight": torch.ones(len(batch))}))
                return self.model.calculate_loss(batch)

            return super()._train_epoch(train_data, epoch_idx, added, show_progress)

    config, data, model = ready(settings, MyDeep)
    theirs = model.calculate_loss
    model.calculate_loss = lambda batch: theirs(batch) * batch["weight"].mean()
    with pytest.raises(InputError, match="needs the field 'weight', which no training batch has"):
        check_training(config, model, data.train)
    monkeypatch.setattr("recbole.trainer.MyDeepTrainer", Adding, raising=False)
    check_training(config, model, data.train)
    trainer = robustify(Adding)(config, model)
    trainer.fit(data.train, data.valid)
    assert trainer.state.progress.ranking and trainer.objective is not None


class Prepared(MyDeep):
    """One whose loss needs a graph that the trainer makes after a warm-up, as SEPT's of RecBole-GNN does."""

    def other_loss(self, interaction):
        return MyDeep.calculate_loss(self, interaction)

    def calculate_loss(self, interaction):
        return self.graph * MyDeep.calculate_loss(self, interaction)


class Preparing(Trainer):
    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        if epoch_idx < self.config["warm_up_epochs"]:
            loss_func = self.model.other_loss
        else:
            self.model.graph = 2.0
        return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)


def test_a_loss_that_the_trainer_has_not_prepared_yet_gives_way_to_the_one_it_passes(settings):
    for warm_up, name in ((9, "other_loss"), (0, "calculate_loss")):
        config, data, model = ready(settings, Prepared, warm_up_epochs=warm_up)
        trainer = robustify(Preparing)(config, model)
        trainer.fit(data.train, data.valid)
        assert trainer.state.progress.ranking and trainer.objective is not None
        assert loss_of(trainer, data.train).__name__ == name


def test_a_model_and_a_trainer_without_a_loss_are_refused_before_training(settings, monkeypatch):
    config, data, model = ready(settings, Lossless)
    with pytest.raises(InputError, match="^model: Lossless has no calculate_loss. Write it, or put a LosslessTrainer"):
        check_training(config, model, data.train)
    for base in (OwnLoss, ShortLoop):
        trainer = robustify(base)(config, model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError, match="cannot be called with a batch alone, and RAWP.* passes no other loss"):
            loss_of(trainer, data.train)
        assert same(before, model.state_dict())
    monkeypatch.setattr("recbole.trainer.LosslessTrainer", Passing, raising=False)
    check_training(config, model, data.train)

"""Is a trainer that a user wrote called as RecBole calls it, and hardened, or is one line said and its file honest?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.quick_start import run_recbole
from recbole.trainer.trainer import Trainer

import recbole_rawp
from recbole_rawp import run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests.own_trainers import Inline, OtherOrder, OwnLoss, ShortBoth, ShortFit, ShortLoop
from tests.training import QUICK, same


@pytest.fixture
def registered():
    recbole_rawp.register()
    yield
    recbole_rawp.unregister()


def trained(settings, cls, *, saved=None, **options):
    """Return the trainer, what its `fit` returned, and the model's weights."""
    given = {"defense": "awp", "epochs": 2, "checkpoint_dir": "saved", **options}
    data, model = prepare(RAWPConfig(config_dict=settings("NeuMF", **given | {"rawp_output_dir": None})))
    trainer = cls(Config(config_dict=settings("NeuMF", **given)), model)
    result = trainer.fit(data.train, data.valid, **({} if saved is None else {"saved": saved}))
    return trainer, result, model.state_dict()


def told(caplog):
    """Return the warnings that tell of plain training."""
    return [record.message for record in caplog.records if "plain" in record.message.lower()]


@pytest.mark.parametrize("cls", [ShortLoop, OtherOrder, ShortFit, ShortBoth, OwnLoss, Inline])
def test_without_a_defense_it_trains_as_it_does_without_us(settings, cls):
    _, expected, weights = trained(settings, cls, defense="none")
    _, result, ours = trained(settings, robustify(cls), defense="none")
    assert result == expected and same(weights, ours)


@pytest.mark.parametrize("cls", [ShortLoop, OtherOrder, ShortFit, ShortBoth])
@pytest.mark.parametrize("way", ["robustify", "register"])
def test_it_is_hardened_as_recboles_is(settings, cls, way, request):
    _, _, expected = trained(settings, robustify(Trainer))
    if way == "register":
        request.getfixturevalue("registered")
    trainer, _, weights = trained(settings, robustify(cls) if way == "robustify" else cls)
    assert isinstance(trainer, cls) and same(weights, expected)


@pytest.mark.parametrize("cls", [ShortLoop, ShortFit])
def test_it_passes_through_stage_2(settings, cls):
    trainer, _, _ = trained(settings, robustify(cls), defense="rawp_ft_reference", ft_epochs=1, epochs=1)
    assert len(trainer.state.progress.epochs) == 1 and Path(trainer.saved_model_file).exists()
    kept = torch.load(trainer.saved_model_file, weights_only=False)
    assert kept["config"]["defense"] == "rawp_ft_reference"


LINES = {
    OwnLoss: "its loop takes no batch's loss from loss_func or model.calculate_loss",
    Inline: "its fit never reached the hardened loss",
}
AUTO = {
    OwnLoss: "its fit takes no saved and no callback_fn, which rawp_radius=auto needs",
    Inline: "its fit never called self._train_epoch",
    ShortFit: "its fit takes no saved and no callback_fn",
}


@pytest.mark.parametrize(
    ("cls", "radius", "line"),
    [*((cls, 0.1, line) for cls, line in LINES.items()), *((cls, "auto", line) for cls, line in AUTO.items())],
)
def test_what_cannot_be_hardened_is_one_line_and_its_file_says_so(settings, cls, radius, line, registered, caplog):
    recbole_rawp.unregister()
    _, expected, weights = trained(settings, cls, defense="none")
    with pytest.raises(InputError, match=line):
        trained(settings, robustify(cls), rawp_radius=radius)
    recbole_rawp.register()
    trainer, result, ours = trained(settings, cls, rawp_radius=radius)
    assert result == expected and same(weights, ours)
    assert len(told(caplog)) == 1 and line in told(caplog)[0]
    trainer._save_checkpoint(1)
    assert torch.load(trainer.saved_model_file, weights_only=False)["config"]["defense"] == "none"


def test_a_fit_that_tells_no_scores_ends_an_automatic_radius_in_one_line(settings, registered, caplog):
    class Quiet(ShortFit):
        def fit(self, train_data, valid_data=None, saved=True, callback_fn=None):
            return ShortFit.fit(self, train_data, valid_data)

    _, _, weights = trained(settings, Quiet, rawp_radius="auto")
    assert len(told(caplog)) == 1 and "its fit never called callback_fn" in told(caplog)[0]
    recbole_rawp.unregister()
    assert same(weights, trained(settings, Quiet, defense="none")[2])


def test_under_register_a_model_without_gradient_is_told_and_its_file_says_so(settings, registered, caplog):
    run_recbole(config_dict=settings("Pop", defense="awp", checkpoint_dir="theirs"))
    assert len(told(caplog)) == 1 and "TraditionalTrainer does not train by gradient descent" in told(caplog)[0]
    (file,) = Path("theirs").glob("*.pth")
    assert torch.load(file, weights_only=False)["config"]["defense"] == "none"


def test_a_class_that_derives_from_ours_and_hides_it_is_told(settings, caplog):
    class Hiding(RAWPFTTrainer):
        _train_epoch, fit = ShortLoop._train_epoch, Inline.fit

    trainer, _, _ = trained(settings, Hiding, epochs=1)
    assert "its own fit hides RAWPTrainer's" in caplog.text
    assert torch.load(trainer.saved_model_file, weights_only=False)["config"]["defense"] == "none"


def test_a_plain_epochs_file_says_so_until_a_hardened_one_is_saved(settings):
    found = []

    class Noting(Trainer):
        def _save_checkpoint(self, epoch, verbose=True):
            super()._save_checkpoint(epoch, verbose=verbose)
            found.append(torch.load(self.saved_model_file, weights_only=False)["config"]["defense"])

    trained(settings, robustify(Noting), rawp_warmup_epochs=1, learning_rate=0.01)
    assert found == ["none", "awp"]


def test_the_job_takes_a_trainer_that_saves_nothing(settings, monkeypatch):
    monkeypatch.setattr("recbole.trainer.NeuMFTrainer", ShortBoth, raising=False)
    options = {"epochs": 1, "defense": "awp", "rawp_output_dir": "out", **QUICK, "attack": ["noise"]}
    assert run_recbole_rawp(config_dict=settings("NeuMF", **options))["records"] and Path("out/model.pth").exists()


def test_what_a_fit_takes_beside_recboles_arguments_reaches_it(settings):
    class More(Trainer):
        def fit(self, train_data, valid_data=None, *, saved=False, twice, callback_fn=None):
            self.twice = twice
            return super().fit(train_data, valid_data, saved=saved, callback_fn=callback_fn)

    class MoreOfItsOwn(ShortBoth):
        def fit(self, train_data, valid_data=None, *, twice):
            self.twice = twice
            return ShortFit.fit(self, train_data, valid_data)

    data, model = prepare(RAWPConfig(config_dict=settings("NeuMF", defense="awp", epochs=1)))
    for cls in (More, MoreOfItsOwn):
        trainer = robustify(cls)(Config(config_dict=settings("NeuMF", defense="awp", epochs=1)), model)
        trainer.fit(data.train, data.valid, twice=2)
        assert trainer.twice == 2 and trainer.objective is not None


def test_arguments_that_are_other_than_recboles_come_where_they_belong(settings, registered):
    class Other(ShortBoth):
        def __init__(self, config, model, first, *, second=0):
            super().__init__(config, model)
            self.got = [first, second]

        def fit(self, train_data, valid_data=None, saved=True, twice=0, verbose=True):
            self.got += [saved, twice, verbose]
            return ShortFit.fit(self, train_data, valid_data)

        def evaluate(self, eval_data, twice=0, load_best_model=True, more=0):
            self.got += [twice, load_best_model, more]
            return super().evaluate(eval_data, load_best_model)

    data, model = prepare(RAWPConfig(config_dict=settings("NeuMF", defense="awp", epochs=1)))
    trainer = Other(Config(config_dict=settings("NeuMF", defense="awp", epochs=1)), model, 1, second=2)
    trainer.fit(data.train, data.valid, False, 3, verbose=False)
    assert trainer.objective is not None and not trainer.arguments.saved
    trainer.evaluate(data.test, 4, False, more=5)
    assert trainer.got == [1, 2, False, 3, False, 0, False, 0, 4, False, 5]  # validated between
    with pytest.raises(TypeError, match="fit"):
        trainer.fit(data.train, data.valid, False, 3, False, 6, 7, 8)
    with pytest.raises(TypeError, match="multiple values for argument 'saved'"):
        trainer.fit(data.train, data.valid, False, saved=True)


def test_an_evaluate_that_names_nothing_beside_the_data_is_called_with_these_alone(settings):
    class Wide(Trainer):
        def evaluate(self, eval_data, *args):
            assert not args
            return super().evaluate(eval_data, load_best_model=False)

    data, model = prepare(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    trainer = type("Ours", (RAWPFTTrainer, Wide), {})(Config(config_dict=settings("NeuMF", defense="none")), model)
    trainer.eval_collector.data_collect(data.train)
    assert trainer.evaluate(data.test, False) == trainer.evaluate(data.test, load_best_model=False)

"""Is a training whose numbers grow beyond measure one line, and so a feature that makes them so?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.trainer.trainer import Trainer

from recbole_rawp import run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.data.numbers import check_numbers
from recbole_rawp.host.preparation import load_dataset
from tests.test_data_files import BODY, INTER, ROWS, USER

USERS = "a\t1\nb\t{}\n"


def small(settings, **overrides):
    return settings("NeuMF", attack=["fgsm"], attack_batches=1, attack_radii=[0.1], **{"epochs": 1, **overrides})


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            {"defense": "none", "learning_rate": 1e38},
            "overflow in epoch 0, at learning_rate=1e+38 with defense",
        ),
        ({"defense": "rawp", "learning_rate": 1e20, "epochs": 3}, "Training loss is nan in epoch "),
    ],
)
def test_diverged_training_is_one_line(overrides, reason, settings):
    with pytest.raises(InputError, match="^training diverged: ") as error:
        run_recbole_rawp(config_dict=small(settings, **overrides))
    assert reason in str(error.value) and "Start a new run with a smaller learning_rate" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_that_end_as_nan_are_told_and_a_mistake_in_code_is_none_of_it(settings, monkeypatch):
    epoch = Trainer._train_epoch

    def broken(self, *args, **kwargs):
        loss = epoch(self, *args, **kwargs)
        with torch.no_grad():
            self.model.predict_layer.weight /= 0
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", broken)
        with pytest.raises(InputError, match=r"^training diverged: .*predict_layer.weight"):
            run_recbole_rawp(config_dict=small(settings, defense="none"))

    def mistaken(self, *args, **kwargs):
        raise ValueError("a mistake")

    monkeypatch.setattr(Trainer, "_train_epoch", mistaken)
    with pytest.raises(ValueError, match="^a mistake$"):
        run_recbole_rawp(config_dict=small(settings, defense="none"))


def checked(inter, user, **more):
    """Load a data set of these files with numeric features, and look through them."""
    home = Path("data/mine")
    home.mkdir(parents=True, exist_ok=True)
    (home / "mine.inter").write_text(inter)
    (home / "mine.user").write_text(user)
    fixed = {"model": "DeepFM", "dataset": "mine", "data_path": "data", "load_col": None, "state": "warning"}
    config = RAWPConfig(config_dict=fixed | {"numerical_features": ["age"]} | more)
    check_numbers(config, load_dataset(config))


@pytest.mark.parametrize("value", ["inf", "-inf", "1e38", "1e400"])
def test_a_number_that_no_model_can_take_is_told_with_file_and_line(value):
    user = USER + USERS.format(value)
    with pytest.raises(InputError) as error:
        checked(INTER + BODY, user, normalize_all=False)
    told = f"'data/mine/mine.user': line 3: '{value}' in column 'age' is no number that a model can take"
    assert told in str(error.value)
    checked(INTER + BODY, user, numerical_features=[])  # which no model reads


def test_what_recbole_brings_into_bounds_and_numbers_in_lists_and_interactions():
    checked(INTER + BODY, USER + USERS.format("1e30"), normalize_all=True)
    checked(INTER + BODY, USER + USERS.format(""), normalize_all=False)  # RecBole fills it
    inter = INTER.replace("\n", "\tweight:float_seq\n") + "".join(
        "\t".join(map(str, row)) + f"\t1 {'inf' if number == 3 else number}\n" for number, row in enumerate(ROWS)
    )
    with pytest.raises(InputError, match=r"mine.inter': line 5: '1 inf' in column 'weight'"):
        checked(inter, USER + USERS.format("2"), numerical_features=["weight"], normalize_all=False)


def test_such_a_number_is_told_without_a_line_where_the_separator_has_several_letters():
    inter, user = ((part).replace("\t", "::") for part in (INTER + BODY, USER + USERS.format("inf")))
    with pytest.raises(InputError, match="^numerical_features: 'age' holds no numbers that a model can take"):
        checked(inter, user, normalize_all=False, field_separator="::")

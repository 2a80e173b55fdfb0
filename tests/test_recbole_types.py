"""Is a scalar option of RecBole's, given a value of the wrong type, refused, and any that its models take accepted?"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import recbole
import yaml

from recbole_rawp.cli.main import main
from recbole_rawp.config.recbole_options import ANY_NUMBER, ANY_VALUE, check_types
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from tests import zoo

PROPERTIES = Path(recbole.__file__).parent / "properties"
LINE = re.compile(r"^([\w-]+): *([^#\n]*?) *# \(([^)]*)\)", re.MULTILINE)  # key, default, RecBole's word for its type


def build(words, model="NeuMF"):
    return RAWPConfig(model, "ml-100k", argv=words)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--epochs=2.0", "epochs: 2.0 is not valid; expected int, such as RecBole's 300."),
        ("--learning_rate=high", "learning_rate: 'high' is not valid; expected float, such as RecBole's 0.001."),
        ("--train_batch_size=1e3", "train_batch_size: 1000.0 is not valid; expected int, such as RecBole's 2048."),
        ("--eval_batch_size=[1]", "eval_batch_size: [1] is not valid; expected int"),
        ("--eval_step=x", "eval_step: 'x' is not valid; expected int"),
        ("--stopping_step=1.5", "stopping_step: 1.5 is not valid; expected int"),
        ("--seed=None", "seed: None is not valid; expected int"),
        ("--epochs=True", "epochs: True is not valid; expected int"),
        ("--weight_decay=False", "weight_decay: False is not valid; expected float"),
        ("--reproducibility=1", "reproducibility: 1 is not valid; expected true or false, such as RecBole's True."),
        ("--show_progress=nope", "show_progress: 'nope' is not valid; expected true or false"),
        ("--mf_embedding_size=64.0", "mf_embedding_size: 64.0 is not valid; expected int"),
        ("--dropout_prob=little", "dropout_prob: 'little' is not valid; expected float"),
        ("--MAX_ITEM_LIST_LENGTH=ten", "MAX_ITEM_LIST_LENGTH: 'ten' is not valid; expected int"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(word, expected):
    with pytest.raises(InputError) as refused:
        build([word])
    assert str(refused.value).startswith(expected) and "\n" not in str(refused.value)


def test_it_is_refused_wherever_it_stands_before_any_work(capsys, monkeypatch):
    monkeypatch.setattr("recbole_rawp.jobs.train.prepare", lambda *_: pytest.fail("prepared"))
    Path("my.yaml").write_text("epochs: 3.5\n")
    for words in (["--epochs=3.5"], ["--config_files=my.yaml"]):
        assert main(["train", "-m", "NeuMF", "-d", "ml-100k", *words]) == 2
        assert "recbole-rawp: epochs: 3.5 is not valid; expected int" in capsys.readouterr().err


def test_what_recbole_takes_passes():
    words = ["--learning_rate=1", "--gpu_id=1,2", "--topk=10", "--metrics=MRR", "--clip_grad_norm={'max_norm': 5}"]
    build([*words, "--loss_decimal_place=None", "--normalize_all=None", "--seed=7", "--dropout_prob=0"])
    build(["--reg_weight=0.5", "--train_neg_sample_args=None", *VALUES], "DCN")
    check_types({"epochs": np.int64(3), "rate": np.float32(0.5), "other": "x"}, {"epochs": 300, "rate": 0.1})


VALUES = ["--metrics=[AUC]", "--valid_metric=AUC", "--eval_args={'mode': 'labeled'}"]


def test_every_model_passes_with_recboles_defaults_and_with_the_zoos_settings(monkeypatch):
    """Given word for word, as a checkpoint's settings are; what else hinders a model here is not the question."""
    monkeypatch.setattr("recbole_rawp.host.models.recboles.check_model", lambda name: None)
    reached = []
    for case in zoo.cases().values():
        for config in (case.config, *({**case.config, **stage} for stage in case.before)):
            try:
                plain = RAWPConfig(config_dict=config)
                written = {key: value for key, value in plain.internal_config_dict.items() if key != "MODEL_TYPE"}
                reached.append(RAWPConfig(config_dict=written | config)["model"])
            except (InputError, ImportError) as error:
                assert "is not valid; expected" not in str(error), case.label
    assert len(set(reached)) > 75


def test_the_exceptions_are_those_of_recboles_own_words():
    """Where RecBole's comment on a default names another type than the default has."""
    said = {"float": set(), "other": set()}
    for file in PROPERTIES.glob("model/*.yaml"):
        for key, default, word in LINE.findall(file.read_text(encoding="utf-8")):
            if type(yaml.safe_load(default)) is int and not word.startswith("int"):
                said["float" if word == "float" else "other"].add(key)
    assert said["float"] <= ANY_NUMBER and said["other"] <= ANY_VALUE
    assert said["float"] and said["other"]

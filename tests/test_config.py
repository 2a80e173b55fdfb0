"""Is every option understood, checked, and documented?"""

from __future__ import annotations

import logging
import pickle
import re
import sys

import pytest
import yaml
from recbole.config import Config

from recbole_rawp.config import settings as options
from recbole_rawp.config import shipped
from recbole_rawp.config.command_line import literal
from recbole_rawp.config.command_line import read as command_line
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from tests.own_models import MyDeep

REFERENCE = (shipped.properties() / "rawp.yaml").read_text()


def build(**overrides):
    return RAWPConfig(config_dict={"model": "NeuMF", "dataset": "ml-100k", **overrides})


@pytest.mark.parametrize("key", OPTIONS)
def test_the_reference_states_default_and_range_of_each_key(key):
    text = re.search(rf"^{key}: .*# \((.+?)\) [A-Zgpojw].+\.$", REFERENCE, re.MULTILINE)
    assert text, "one line: key, default, (range), a sentence"
    shown = OPTIONS[key].expected
    assert text[1] == shown
    assert OPTIONS[key].accepts(yaml.safe_load(REFERENCE)[key])


def test_the_reference_has_no_other_keys():
    assert set(yaml.safe_load(REFERENCE)) == set(OPTIONS)


@pytest.mark.parametrize("folder", ["defense"])
def test_every_file_of_the_properties_sets_our_keys_only_and_within_range(folder):
    files = sorted((shipped.properties() / folder).glob("*.yaml"))
    assert files
    for file in files:
        values = yaml.safe_load(file.read_text()) or {}
        assert set(values) <= set(OPTIONS), file
        assert all(OPTIONS[key].accepts(value) for key, value in values.items()), file


def test_layers_of_defaults_and_the_users_word_is_last(tmp_path, monkeypatch):
    default, reference = build(), build(defense="rawp_ft_reference")
    assert (default["rawp_radius"], default["rawp_start"], default["rawp_mask_probability"]) == ("auto", "free", 1.0)
    assert (reference["rawp_radius"], reference["rawp_start"], reference["rawp_mask_probability"]) == (
        0.1,
        "weights",
        0.5,
    )
    assert default["ft_rounds"] == reference["ft_rounds"] == 1 and build(defense="awp")["ft_rounds"] == 0
    (tmp_path / "my.yaml").write_text("rawp_radius: 0.11\nrawp_steps: 2\n")
    monkeypatch.setattr(sys, "argv", ["x", "--rawp_radius=0.33"])
    mine = RAWPConfig(
        "NeuMF", "ml-100k", [str(tmp_path / "my.yaml")], {"rawp_radius": 0.22, "rawp_steps": 3, "rawp_start": "weights"}
    )
    assert (mine["rawp_radius"], mine["rawp_steps"]) == (0.33, 3)


def test_recboles_defaults_are_its_own():
    plain = Config(config_dict={"model": "NeuMF", "dataset": "ml-100k"}).final_config_dict
    ours = build(defense="none").final_config_dict
    assert {key: ours[key] for key in plain} == plain
    assert set(ours) - set(plain) == set(OPTIONS)


def test_a_key_that_recbole_owns_stays_recboles():
    assert RAWPConfig("BERT4Rec", "ml-100k", config_dict={"train_neg_sample_args": None})["ft_ratio"] == 0.5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rawp_radius", 0),
        ("rawp_radius", -1),
        ("rawp_radius", "big"),
        ("rawp_radius", float("nan")),
        ("rawp_radius", True),
        ("rawp_radius_jitter", 1.0),
        ("rawp_mask_probability", 0),
        ("rawp_mask_probability", 1.5),
        ("rawp_mask_every", "week"),
        ("rawp_steps", 0),
        ("rawp_steps", 1.5),
        ("rawp_ascent_fraction", 2),
        ("rawp_clean_weight", -0.1),
        ("rawp_adversarial_weight", 0),
        ("rawp_layer_weights", "linear"),
        ("rawp_layer_weights", {"mlp*": "heavy"}),
        ("rawp_layer_weights", {"*": 0}),
        ("rawp_target", []),
        ("rawp_target", 3),
        ("rawp_granularity", "column"),
        ("rawp_direction", "up"),
        ("rawp_warmup_epochs", -1),
        ("attack", ["pgdd"]),
        ("attack", ""),
        ("attack", ["fgsm", "fgsm"]),
        ("attack_steps", 0),
        ("attack_radii", 0.1),
        ("attack_radii", [0.1, -0.1]),
        ("attack_radii", []),
        ("attack_batches", 0),
        ("rawp_output_dir", 5),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(key, value):
    with pytest.raises(InputError) as error:
        build(**{key: value})
    assert str(error.value).startswith(f"{key}: ") and OPTIONS[key].expected in str(error.value)
    assert "\n" not in str(error.value)


def test_one_shared_norm_cannot_weigh_layers():
    with pytest.raises(InputError, match="rawp_layer_weights.*Use rawp_layer_weights=uniform"):
        build(rawp_granularity="global", rawp_layer_weights="norm")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("rawp_raduis", "rawp_radius"),
        ("rawp_stepz", "rawp_steps"),
        ("defens", "defense"),
        ("radwp_radius", "rawp_radius"),
    ],
)
def test_a_misspelt_key_of_ours_is_an_error_with_a_suggestion(key, meant):
    with pytest.raises(InputError, match=f"{key}: no such option. Did you mean '{meant}'"):
        build(**{key: 1})


def test_a_near_miss_of_a_recbole_key_warns_and_a_key_of_the_users_own_does_not(caplog):
    build(learning_rat=0.1, my_models_own_key=3)
    assert [r.message for r in caplog.records if "Did you mean" in r.message] == [
        "learning_rat: not an option that RecBole knows. Did you mean 'learning_rate'?"
    ]


def test_a_model_of_the_users_own_may_have_an_option_that_is_spelt_nearly_as_one_of_ours(caplog):
    RAWPConfig(MyDeep, "ml-100k", config_dict={"warm_up_epochs": 2}, argv=[])
    assert [r.message for r in caplog.records if "Did you mean" in r.message] == [
        "warm_up_epochs: not an option that RecBole knows. Did you mean 'rawp_warmup_epochs'?"
    ]
    for key, model in (("warm_up_epochs", "NeuMF"), ("rawp_raduis", MyDeep)):
        with pytest.raises(InputError, match=f"{key}: no such option"):
            RAWPConfig(model, "ml-100k", config_dict={key: 2}, argv=[])


def test_defence_is_understood_and_keeps_its_priority(monkeypatch, tmp_path):
    assert build(defence="awp")["defense"] == "awp"
    (tmp_path / "my.yaml").write_text("defence: awp\n")
    monkeypatch.setattr(sys, "argv", ["x", "--defense=none"])
    assert RAWPConfig("NeuMF", "ml-100k", ["my.yaml"])["defense"] == "none"
    with pytest.raises(InputError, match="--defense: given twice"):
        command_line(["--defence=awp", "--defense=none"])


def test_an_unknown_defense_model_or_file_is_one_line_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="defense: no file .*'rawp'.*Known: apr, asam, awp, clipping, noise, none, "):
        build(defense="rwap")
    for name in ("NueMF", "neumf"):
        with pytest.raises(InputError, match=f"no model '{name}'. Did you mean 'NeuMF'"):
            build(model=name)
    with pytest.raises(InputError, match="config_files: cannot read 'missing.yaml'"):
        RAWPConfig("NeuMF", "ml-100k", ["missing.yaml"])
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="holds no 'key: value' lines"):
        RAWPConfig("NeuMF", "ml-100k", [str(tmp_path / "list.yaml")])
    with pytest.raises(InputError, match="There is no metric named 'Foo'"):
        build(metrics=["Foo"])


def test_a_valid_metric_that_is_not_measured_is_refused():
    for settings in ({"topk": 5}, {"metrics": "NDCG"}, {"valid_metric": "NDCG@5"}):
        with pytest.raises(InputError, match=r"valid_metric: .* is not measured; .*@"):
            build(**settings)
    build(topk=5, valid_metric="ndcg@5")


def test_names_of_options_are_words_and_baseline_is_no_setting():
    with pytest.raises(InputError, match="1: option names are words"):
        RAWPConfig("NeuMF", "ml-100k", config_dict={1: 2})
    with pytest.raises(InputError, match="baseline: not a setting"):
        build(baseline=True)
    with pytest.raises(InputError, match="^model: 5 is no RecBole model"):
        build(model=5)


def test_command_line_forms():
    words = [
        *("train", "--epochs=3", "--rawp_radius", "0.2", "-m", "NeuMF", "-d", "ml-100k", "--baseline"),
        *("--config_files", "a.yaml", "--lr=a=b"),
    ]
    options_, rest = command_line(words)
    assert rest == ["train"]
    assert options_ == {
        "epochs": 3,
        "rawp_radius": 0.2,
        "model": "NeuMF",
        "dataset": "ml-100k",
        "baseline": True,
        "config_files": "a.yaml",
        "lr": "a=b",
    }
    assert command_line(["-d", "123", "--epochs", "--quiet"]) == ({"dataset": "123"}, ["--epochs", "--quiet"])
    assert command_line(["--x", "-1"])[0] == {"x": -1}
    assert command_line(["--x=1", "--x", "1"])[0] == {"x": 1}
    with pytest.raises(InputError, match="--x: given twice, as 1 and 2"):
        command_line(["--x=1", "--x=2"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("[64,32]", [64, 32]),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("[mlp*, predict_layer.weight]", ["mlp*", "predict_layer.weight"]),
        ("None", None),
        ("null", None),
        ("true", True),
        ("uni100", "uni100"),
        ("__import__('os').system('touch owned')", "__import__('os').system('touch owned')"),
        ("[__import__('os')", "[__import__('os')"),
    ],
)
def test_values_are_read_and_never_evaluated(text, value, tmp_path):
    assert literal(text) == value
    assert not (tmp_path / "owned").exists()


def test_no_route_into_the_config_evaluates(monkeypatch, tmp_path):
    attack = "__import__('pathlib').Path('owned').touch()"
    monkeypatch.setattr(sys, "argv", ["x", f"--topping={attack}"])
    assert build(rawp_target=attack, other=attack)["topping"] == attack
    assert not (tmp_path / "owned").exists()


def test_the_command_line_gives_no_false_warning(monkeypatch, caplog):
    monkeypatch.setattr(sys, "argv", ["x", "train", "-m", "NeuMF", "--epochs", "3"])
    caplog.set_level(logging.WARNING)
    assert build()["epochs"] == 3
    assert not [r for r in caplog.records if "will not be used" in r.message]


def test_our_keys_print_in_a_block_of_their_own():
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(build()))
    block = text.split("RAWP Hyper Parameters:")[1].split("\n\n")[0]
    assert all(f"\n{key} =" in block for key in OPTIONS)
    assert "rawp_" not in text.split("Other Hyper Parameters")[1]


def test_it_pickles_as_recboles_own():
    config = build()
    twin = pickle.loads(pickle.dumps(config))
    assert type(twin) is Config and twin.final_config_dict == config.final_config_dict


def test_a_plain_config_is_completed_from_the_properties():
    plain = Config(config_dict={"model": "NeuMF", "dataset": "ml-100k", "defense": "awp", "rawp_steps": 2})
    settings = options.read(plain).training
    assert settings.recipe.steps == 2 and settings.recipe.mask_probability == 1.0
    assert settings == options.read(build(defense="awp", rawp_steps=2)).training
    with pytest.raises(InputError, match="rawp_step: no such option"):
        options.read(Config(config_dict={"model": "NeuMF", "dataset": "ml-100k", "rawp_step": 2}))


def test_attack_radii_are_sorted_and_start_at_zero():
    (threat,) = options.read(build(attack_radii=[0.3, 0.1], rawp_target="all")).attack.threats
    assert threat.levels == (0.0, 0.1, 0.3) and threat.target == "all"

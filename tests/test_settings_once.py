"""Are the settings of a config read once, and again only after one of them was set?"""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from recbole.config import Config

from recbole_rawp import run_recbole_rawp
from recbole_rawp.config import settings as options
from recbole_rawp.config import suites
from recbole_rawp.host.config import RAWPConfig

MODEL = {"model": "NeuMF", "dataset": "ml-100k"}


@pytest.fixture
def counted(monkeypatch):
    """Count how often settings are parsed, and suites read; return the counter."""
    calls = Counter()

    def counting(name, function):
        def wrapped(*args):
            calls[name] += 1
            return function(*args)

        return wrapped

    monkeypatch.setattr(options, "made", counting("settings", options.made))
    monkeypatch.setattr(suites, "read", counting("suites", suites.read))
    return calls


@pytest.mark.parametrize(("baseline", "configs"), [(False, 1), (True, 2)])
def test_a_run_reads_its_settings_once_per_config(baseline, configs, counted, settings):
    own = {"defense": "rawp_ft_reference", "attack_radii": [0.1], "attack_batches": 1, "epochs": 1, "ft_epochs": 1}
    run_recbole_rawp(config_dict=settings("NeuMF", **own), baseline=baseline)
    assert counted == {"settings": configs, "suites": configs}


def test_they_are_read_again_after_one_of_ours_was_set(counted):
    config = RAWPConfig(config_dict=MODEL)
    first = options.read(config)
    config["checkpoint_dir"] = "elsewhere"
    assert options.read(config) is first and first.attack is first.attack
    config["rawp_start"] = "weights"
    config["rawp_steps"] = 4
    assert options.read(config).training.recipe.steps == 4 and counted["settings"] == 2
    with pytest.raises(ValueError, match="^rawp_steps: 0 is not valid"):
        config["rawp_steps"] = 0
        options.read(config)


def test_a_copy_with_changes_leaves_the_first_alone_and_checks_them(counted):
    config = RAWPConfig(config_dict=MODEL)
    plain = config.but(defense="none", ft_rounds=0)
    assert isinstance(plain, RAWPConfig) and plain.settings.training.defense == "none"
    assert config["defense"] == "rawp_ft" and config.settings.fine_tuning.rounds == 1
    assert counted["settings"] == 2


def test_what_a_config_holds_is_in_no_pickle():
    config = RAWPConfig(config_dict=MODEL, argv=["--epochs=2"])
    assert config.settings.attack.threats
    twin = pickle.loads(pickle.dumps(config))
    assert type(twin) is Config and b"recbole_rawp" not in pickle.dumps(config)
    assert set(vars(config)) - set(vars(twin)) == set(RAWPConfig.OWN)


def test_a_suite_that_is_gone_hinders_only_who_attacks():
    config = RAWPConfig(config_dict=MODEL | {"attack": "gone.yaml"})
    assert options.read(config).fine_tuning.rounds == 1
    with pytest.raises(ValueError, match="attack: there is no suite 'gone.yaml'"):
        _ = options.read(config).attack

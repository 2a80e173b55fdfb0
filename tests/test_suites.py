"""Does a suite hold what its file says, and is a wrong one refused in one line?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from recbole_rawp.config import suites
from recbole_rawp.config.properties import defaults
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.threats.replacement import Replacement
from recbole_rawp.threats.threat import VARIANTS


def threats(**options):
    return suites.threats(defaults("rawp") | options)


def test_every_suite_that_ships_can_be_read():
    shipped = ["modules", "production", "production_full", "published", "quick", "standard", "strongest"]
    assert suites.suites() == shipped
    for name in suites.suites():
        for threat in threats(attack=name):
            controlled = any(VARIANTS[variant].control for variant in threat.variants)
            assert threat.levels[0] == 0 and len(threat.levels) > 1
            assert controlled or isinstance(threat, Replacement)


def test_quick_follows_the_defense_and_a_named_target_is_optional():
    (quick,) = threats(rawp_target="all")
    assert quick.target == "all" and not quick.optional and quick.variants == ("noise", "apgd", "transfer")
    assert all(threat.optional for threat in threats(attack="standard"))


def test_quick_for_each_user_carries_nothing_over():
    (quick,) = threats(attack_scope="per_user", attack_granularity="row")
    assert quick.variants == ("noise", "apgd") and quick.scope == "per_user"


def test_options_that_are_set_win_over_the_suite():
    for threat in threats(attack="published", attack_radii=[0.2], attack_labels="truth", attack_target="hidden"):
        assert threat.levels == (0.0, 0.2) and threat.labels == "truth"
        assert threat.target == "hidden" and not threat.optional
    assert {threat.labels for threat in threats(attack="published")} == {"pseudo", "truth"}
    assert {threat.labels for threat in threats()} == {""}  # a global attack has none


def test_a_list_of_methods_is_quick_with_those_methods():
    (threat,) = threats(attack=["pgd"], attack_restarts=4)
    assert threat.variants == ("pgd",) and threat.restarts == 4 and threat.levels[1:] == (0.05, 0.1, 0.2, 0.3, 0.5)


def test_a_file_of_ones_own_is_a_suite():
    Path("mine.yaml").write_text("- {methods: [mim], target: ['mlp*', 'predict*'], steps: 3, radii: [0.4, 0.1]}")
    (threat,) = threats(attack="mine.yaml")
    assert threat.target == ("mlp*", "predict*") and threat.iterations == 3 and threat.levels == (0.0, 0.1, 0.4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a list of threats"),
        ("[]", "is not a list of threats"),
        ("- {radii: [0.1]}", "entry 1: methods are missing"),
        ("- {methods: [fgsm]}", "attack_radii: 'wrong.yaml' names none"),
        ("- {methods: fgsm, radii: [0.1]}", "entry 1: methods: 'fgsm' is not valid"),
        ("- {methods: [fgms], radii: [0.1]}", "entry 1: there is no method 'fgms'. Did you mean 'fgsm'?"),
        ("- {methods: [fgsm], radii: [0.1], scoop: universal}", "scoop: no such key. Did you mean 'scope'?"),
        (
            "- {methods: [fgsm], radii: [0.1], scope: globl}",
            "scope: 'globl' is not valid; expected universal | per_user",
        ),
        (
            "- {methods: [fgsm], radii: [0.1], scope: per_user}",
            "'tensor' does not go with attacks per user. Set attack_granularity=row",
        ),
        ("- {methods: [fgsm], radii: [0.1], target: activations}", "'tensor' does not go with attacks on activations"),
        ("- {methods: [transfer], radii: [0.1]}", "transfer alone measures nothing where there is no plain twin"),
        (
            "- {methods: [fgsm, transfer], radii: [0.1], scope: per_user, granularity: row}",
            "transfer carries one change over, and attacks per user have one for each",
        ),
        ("- {methods: [apgd], loss: rank, radii: [0.1]}", "loss: 'rank' is not valid"),
        ("- [", "cannot read 'wrong.yaml'"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_line(text, message):
    Path("wrong.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        threats(attack="wrong.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_suite_is_refused_with_a_suggestion():
    with pytest.raises(InputError, match=r"no suite 'standrad'. Did you mean 'standard'\? Known: modules, "):
        threats(attack="standrad")


def test_null_in_a_suite_is_the_default():
    Path("mine.yaml").write_text(
        "- {methods: [pgd], radii: [1e-3], unit: ~, scope: ~, granularity: ~, steps: ~, restarts: ~, labels: ~}"
    )
    (threat,) = threats(attack="mine.yaml")
    assert (threat.unit, threat.scope, threat.granularity) == ("relative", "universal", "tensor")
    assert (threat.iterations, threat.restarts, threat.levels) == (10, 1, (0.0, 0.001))


def test_threats_that_options_make_equal_are_one_and_indistinct_ones_are_refused():
    found = threats(attack="standard", attack_target="embeddings", attack_granularity="row")
    assert len({threat.name for threat in found}) == len(found)
    assert set(found[0].variants) == {"noise", "fgsm", "mim", "apgd"}
    Path("mine.yaml").write_text("- {methods: [pgd], radii: [0.1]}\n- {methods: [pgd], radii: [0.1], restarts: 3}")
    with pytest.raises(InputError, match="pgd on hidden/tensor/universal is there twice"):
        threats(attack="mine.yaml")


def test_a_pattern_in_a_suite_of_ones_own_must_match():
    Path("mine.yaml").write_text("- {methods: [fgsm], target: 'mpl*', radii: [0.1]}")
    assert not threats(attack="mine.yaml")[0].optional


def test_threats_are_written_as_the_suite_that_holds_them():
    found = threats(attack="standard")
    Path("again.yaml").write_text(suites.written(found))
    again = threats(attack="again.yaml")
    assert [replace(t, optional=True) for t in again] == [replace(t, optional=True) for t in found]


def test_words_that_are_no_methods_are_refused():
    for wrong in ([["noise"]], [{"a": 1}], [3]):
        assert not suites.OPTIONS["attack"].accepts(wrong)


def test_an_option_that_no_threat_of_the_suite_takes_is_told(settings, caplog):
    config = RAWPConfig(config_dict=settings("NeuMF", attack=["int8", "pruning"], attack_radii=[0.1]))
    assert len(config.settings.attack.threats) == 2
    assert [line for line in caplog.messages if line.startswith("attack_radii: nothing in attack=")]
    caplog.clear()
    config = RAWPConfig(config_dict=settings("NeuMF", attack=["int8", "fgsm"], attack_radii=[0.1]))
    assert config.settings.attack and not [line for line in caplog.messages if "has no effect" in line]

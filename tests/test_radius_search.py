"""`rawp_radius: auto` finds the radius, and leaves everything else as it was."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from recbole_rawp import objective_function, register, run_recbole_rawp
from recbole_rawp.config import settings as options
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.jobs.harden import harden_checkpoint
from recbole_rawp.report.sections import radius_search
from recbole_rawp.training.radius import callback
from recbole_rawp.training.radius.rule import AFTER, GROWTH, JUMP, RadiusSearch, epochs_after
from recbole_rawp.training.registration import unregister
from tests.training import made, same

PLAIN = [0.2, 0.4, 0.5]


def searched(score, *, plain=PLAIN, bigger=True, largest=1.0, epochs=20):
    """Run the rule on a score that is a function of the radius."""
    search = RadiusSearch(0.01, bigger, largest, plain=plain, trained_plainly=True)
    for epoch in range(epochs):
        search.decide(epoch, score(search.radius))
    return search


# --- the rule


def test_a_score_that_falls_with_the_square_of_the_radius_gives_that_which_the_budget_affords():
    for affordable in (0.002 * 450 ** (k / 60) for k in range(60)):
        search = searched(lambda radius, a=affordable: 0.5 * (1 - 0.01 * (radius / a) ** 2))
        assert affordable / 1.1 < search.chosen.radius <= affordable * 1.001
        assert search.chosen.passed and search.chosen.score >= search.needed == pytest.approx(0.495)


def test_the_rule_is_the_same_where_less_is_better():
    mirrored = searched(lambda radius: 1 + 10 * radius**2, plain=[3.0, 1.5, 1.0], bigger=False)
    assert mirrored.needed == pytest.approx(1 / 0.99) and mirrored.measure == 1.0
    assert (0.0101 / 10) ** 0.5 / 1.1 < mirrored.chosen.radius <= (0.0102 / 10) ** 0.5


def test_the_radius_grows_by_the_same_factor_until_the_first_refusal_and_then_by_its_square_root():
    edge = options.START * GROWTH**2.1
    radii = [row.radius for row in searched(lambda radius: 0.5 if radius < edge else 0.1, epochs=8).path]
    start = options.START
    assert radii[:4] == pytest.approx([start, start * GROWTH, start * GROWTH**2, start * GROWTH**3])
    assert radii[4:] == pytest.approx([start * GROWTH**power for power in (2, 2.5, 2, 2.25)])


def test_where_no_radius_costs_anything_the_largest_is_taken_and_never_passed():
    search = searched(lambda radius: 0.5)
    assert search.chosen.radius == 1.0 == max(row.radius for row in search.path)


@pytest.mark.parametrize("bigger", [True, False])
def test_where_every_radius_costs_too_much_it_falls_and_the_least_harmful_is_chosen(bigger):
    sign = 1 if bigger else -1
    scores = iter([0.1, 0.3, 0.2, math.nan, 0.25])
    search = searched(lambda _: sign * next(scores), plain=[sign * 0.5], bigger=bigger, epochs=5)
    assert [row.radius for row in search.path] == pytest.approx([options.START / 4**k for k in range(5)])
    assert not search.chosen.passed and search.chosen.epoch == 1


def test_a_model_that_keeps_the_budget_is_preferred_to_one_that_does_not_whatever_its_score():
    scores = iter([0.49, 0.496, 0.499, 0.495, 0.1])
    search = searched(lambda _: next(scores), epochs=5)
    assert [row.passed for row in search.path] == [False, True, True, True, False]
    assert search.chosen.epoch == 3 and sum(row.chosen for row in search.path) == 1


@pytest.mark.parametrize("scores", [[math.nan, 0.3], [0.3, math.nan]])
def test_a_score_that_is_not_a_number_is_refused_and_any_other_is_better(scores):
    given = iter(scores)
    search = searched(lambda _: next(given), epochs=2)
    assert not any(row.passed for row in search.path) and search.chosen.score == 0.3


def test_the_weights_go_back_where_nothing_was_kept_and_after_two_refusals_running():
    scores, back = iter([0.1, 0.5, 0.1, 0.5, 0.1, 0.1, 0.1, 0.5]), []
    search = RadiusSearch(0.01, True, 1.0, plain=PLAIN, trained_plainly=True)
    for epoch in range(8):
        search.decide(epoch, next(scores))
        back.append(search.goes_back)
    assert back == [True, False, False, False, False, True, True, False]


def jumped(scores, bigger=True):
    """Return a search of 20 epochs that began with a jump, after these scores."""
    sign = 1 if bigger else -1
    search = RadiusSearch(
        0.01, bigger, 1.0, JUMP, jumping=True, total=20, plain=[sign * score for score in PLAIN], trained_plainly=True
    )
    back = []
    for epoch, score in enumerate(scores):
        search.decide(epoch, sign * score)
        back.append(search.goes_back)
    return search, back


def test_a_jump_stays_while_half_its_pace_would_bring_the_score_back_before_the_end():
    # needed: 0.495. After 4: 0.281 + (0.281 - 0.2) / 3 / 2 * 16 = 0.497; after 8: 0.371 + 0.09 / 4 / 2 * 12 = 0.506
    search, back = jumped([0.2, 0.281, 0.1, 0.25, 0.28, 0.371, 0.3, 0.3, 0.496])
    assert [row.radius for row in search.path] == [JUMP] * 9 and not any(back)
    assert search.radius == JUMP * GROWTH and not search.jumping and search.chosen.epoch == 8


@pytest.mark.parametrize(
    ("scores", "epochs"),
    [([0.2, 0.28, 0.1, 0.25], 4), ([0.2, 0.281, 0.1, 0.25, 0.28, 0.365, 0.3, 0.3], 8), ([0.3, math.nan], 2)],
)
def test_a_jump_from_which_the_score_does_not_recover_goes_back_to_the_plain_model_and_a_small_radius(scores, epochs):
    search, back = jumped(scores)
    assert back == [False] * (epochs - 1) + [True] and search.radius == options.START and not search.jumping
    assert search.growth == GROWTH
    search.decide(epochs, 0.4)
    assert search.goes_back and search.radius == options.START / 4


def test_the_plain_models_worth_is_the_mean_of_its_best_score_and_the_four_after_it():
    plain = [0.2, 0.5, 0.4, math.nan, 0.45, 0.42, 0.1]
    search = RadiusSearch(0.01, True, 1.0, plain=list(plain))
    search.settle()
    assert search.settling == 0 and search.measure == pytest.approx((0.5 + 0.4 + 0.45 + 0.42) / 4)
    search = RadiusSearch(0.01, True, 1.0, plain=plain[:3])
    search.settle()
    assert search.settling == 3
    search.plain += [0.9, 0.3, 0.3]  # a better one among them does not move the place
    assert search.measure == pytest.approx((0.5 + 0.4 + 0.9 + 0.3 + 0.3) / 5)


def test_a_plain_score_that_is_not_a_number_is_no_measure():
    for plain in ([math.nan, 0.4, 0.5], [0.5, math.nan]):
        search = searched(lambda radius: 0.3, plain=plain, epochs=1)
        assert search.measure == 0.5 and not search.path[0].passed


def test_jump_and_ramp_have_eight_epochs_and_a_third_of_the_plain_ones_or_twelve():
    assert [epochs_after(plain) for plain in (1, 12, 40, 60, 100)] == [20, 20, 20, 26, 38]


# --- in training


def config_of(settings, name="NeuMF", **overrides):
    return RAWPConfig(
        config_dict=settings(
            name, **{"defense": "rawp", "rawp_radius": "auto", "rawp_mask_every": "batch", "epochs": 6, **overrides}
        )
    )


def fit(config, *, saved=False, callback=None):
    trainer, data = made(config)
    scores = []
    trainer.fit(
        data.train, data.valid, verbose=False, saved=saved, callback_fn=callback or (lambda e, s: scores.append(s))
    )
    return trainer, scores


@pytest.mark.parametrize("name", ["NeuMF", "DCN", "MultiVAE", "DiffRec", "RecVAE", "MKR"])
def test_the_plain_model_that_is_the_measure_is_recboles_bit_for_bit(name, settings):
    plain, scores = fit(config_of(settings, name, defense="none", checkpoint_dir="plain"), saved=True)
    auto, _ = fit(config_of(settings, name, checkpoint_dir="auto"), saved=True)
    assert auto.state.search.plain[: len(scores)] == [float(score) for score in scores]
    file = Path(auto.saved_model_file)
    mine = checkpoint.read(file.with_stem(f"{file.stem}-plain"))
    assert same(mine["state_dict"], checkpoint.read(plain.saved_model_file)["state_dict"])


def after(trainer):
    """Return how many plain epochs were trained for the scores after the best: six are planned."""
    best = trainer.state.search.best
    assert trainer.state.search.measure == pytest.approx(sum(trainer.state.search.plain[best : best + 5]) / 5)
    return max(0, best + 5 - 6)


@pytest.mark.parametrize("name", ["NeuMF", "DCN", "MultiVAE", "DiffRec", "RecVAE", "MKR"])
def test_the_ramp_goes_on_from_the_best_plain_weights_and_optimizer(name, settings, monkeypatch):
    begun, begin = [], callback.begin_ramp

    def watched(trainer, plain):
        begun.append(copy.deepcopy(trainer.trained()))
        begin(trainer, plain)

    monkeypatch.setattr(callback, "begin_ramp", watched)
    given = config_of(settings, name, checkpoint_dir="auto", rawp_mask_probability=1.0)
    trainer, scores = fit(given, saved=True)
    file = Path(trainer.saved_model_file)
    plain = checkpoint.read(file.with_stem(f"{file.stem}-plain"))
    assert same(begun[0]["weights"], plain["state_dict"])
    if name != "RecVAE":  # whose checkpoint has the optimizer that it never used
        (mine, theirs) = (begun[0]["optimizers"]["optimizer"]["state"], plain["optimizer"]["state"])
        assert mine.keys() == theirs.keys() and all(same(mine[k], theirs[k]) for k in mine)
    begins = 6 + after(trainer)
    assert [row.epoch for row in trainer.state.search.path] == list(range(begins, begins + 20))
    assert len(scores) == begins - 6 + 20


def test_an_endless_budget_grows_from_the_jump_on_to_the_largest_radius(settings):
    wide, _ = fit(config_of(settings, rawp_clean_budget=0.99))
    assert [row.radius for row in wide.state.search.path] == pytest.approx([0.3, 0.6, *[1.0] * 18])
    assert wide.objective.recipe.radius == wide.state.search.chosen.radius


def test_a_second_refusal_running_puts_weights_and_optimizer_of_the_last_kept_one_back(settings, monkeypatch):
    states, decide, before = [], RadiusSearch.decide, callback.judge

    def every_third(self, epoch, score):
        return decide(self, epoch, 1.0 if len(self.path) % 3 == 0 else -1.0)

    def watched(trainer, *args):
        before(trainer, *args)
        states.append(copy.deepcopy(trainer.trained()))

    monkeypatch.setattr(RadiusSearch, "decide", every_third)
    monkeypatch.setattr(callback, "judge", watched)
    trainer, _ = fit(config_of(settings))
    assert [row.passed for row in trainer.state.search.path] == ([True, False, False] * 7)[:20]
    for start in range(0, 18, 3):
        kept, first, second = states[start : start + 3]
        assert not same(kept["weights"], first["weights"]), "training goes on"
        assert same(kept["weights"], second["weights"])
        (mine, theirs) = (one["optimizers"]["optimizer"]["state"] for one in (kept, second))
        assert all(same(mine[k], theirs[k]) for k in mine) and mine.keys() == theirs.keys()
    assert not same(states[0]["weights"], states[3]["weights"])


def test_recboles_own_limits_are_back_in_the_end(settings):
    trainer, _ = fit(config_of(settings, eval_step=2, stopping_step=3))
    assert (trainer.start_epoch, trainer.epochs, trainer.eval_step, trainer.stopping_step) == (0, 6, 2, 3)
    begins = trainer.state.search.path[0].epoch
    assert [row.epoch for row in trainer.state.search.path] == list(range(begins, begins + 20)), "validated after each"


def test_without_files_the_chosen_weights_are_in_the_model(settings, monkeypatch):
    trainer, _ = fit(config_of(settings, checkpoint_dir="saved"), saved=True)
    best = checkpoint.read(trainer.saved_model_file)
    assert best["epoch"] == trainer.state.search.chosen.epoch
    unsaved, _ = fit(config_of(settings))
    assert same(unsaved.model.state_dict(), best["state_dict"])
    assert unsaved.best_valid_score == trainer.best_valid_score == trainer.state.search.chosen.score


@pytest.mark.parametrize("saved", [True, False])
def test_where_no_radius_kept_the_budget_the_plain_model_can_be_kept_and_is_called_that(
    saved, settings, monkeypatch, caplog
):
    monkeypatch.setattr(RadiusSearch, "needed", 2.0)
    given = config_of(settings, checkpoint_dir="saved", defense="rawp_ft", rawp_keep_plain=True, ft_radius=None)
    trainer, _ = fit(given, saved=saved)
    file = Path(trainer.saved_model_file)
    assert trainer.state.search.gave_up and trainer.state.progress is None
    assert "it is NOT hardened" in caplog.text
    plain, _ = fit(config_of(settings, checkpoint_dir="plain", defense="none"), saved=True)
    theirs = checkpoint.read(plain.saved_model_file)
    assert same(trainer.model.state_dict(), theirs["state_dict"])
    assert trainer.best_valid_score == plain.best_valid_score
    if saved:
        kept = checkpoint.read(file)
        assert same(kept["state_dict"], theirs["state_dict"]) and kept["config"]["defense"] == "none"
    words = radius_search.outcome(trainer.state.search, "NDCG@10")
    assert words.endswith(
        "**no radius kept the budget of 1 %**; the plain model was kept (rawp_keep_plain), NOT hardened."
    )


def test_stage_2_takes_the_radius_found_and_what_the_budget_leaves(settings):
    trainer, _ = fit(config_of(settings, defense="rawp_ft", rawp_clean_budget=0.5, ft_radius=None))
    search = trainer.state.search
    assert trainer.fine_tuning.recipe.radius == search.chosen.radius > options.START
    assert trainer.fine_tuning.clean_tolerance == max(0.985, min(1.0, search.needed / search.chosen.score))
    own, _ = fit(config_of(settings, defense="rawp_ft", rawp_clean_budget=0.5, ft_radius=0.07))
    assert own.fine_tuning.recipe.radius == 0.07


def test_recboles_own_run_takes_it_too(settings):
    from recbole.quick_start import run_recbole

    register()
    try:
        result = run_recbole(config_dict=settings("NeuMF", defense="rawp", rawp_radius="auto", checkpoint_dir="theirs"))
    finally:
        unregister()
    assert result["test_result"] and len(list(Path("theirs").glob("*-plain.pth"))) == 1


@pytest.mark.parametrize("target", ["activations", "all"])
def test_other_targets_search_as_well(target, settings):
    granularity = {"rawp_granularity": "row", "rawp_start": "weights"} if target == "activations" else {}
    trainer, _ = fit(config_of(settings, rawp_target=target, **granularity))
    assert len(trainer.state.search.path) == 20


def test_harden_goes_on_from_the_checkpoint_as_the_plain_model(plain):
    given = {"rawp_radius": "auto", "ft_radius": None, "attack_radii": [0.1], "rawp_mask_every": "batch"}
    result = harden_checkpoint(str(plain), config_dict=given)
    assert result["search"].startswith("rawp_radius auto: ") and result["repair"]
    assert {record.defense for record in result["records"]} == {"none", "rawp_ft"}
    assert Path(result["output_dir"], "original.pth").read_bytes() == plain.read_bytes()


def test_harden_keeps_the_checkpoints_moments_and_the_options_that_were_typed(settings, plain, caplog):
    content = checkpoint.read(plain)
    trainer, _ = made(config_of(settings, learning_rate=0.005))
    callback.go_on_with_optimizer(trainer, content)
    state = trainer.optimizer.state_dict()
    theirs = content["optimizer"]["state"]
    assert state["param_groups"][0]["lr"] == 0.005 and theirs
    assert all(same(state["state"][k], theirs[k]) for k in theirs) and "does not fit" not in caplog.text
    other, _ = made(config_of(settings, learner="sgd"))
    callback.go_on_with_optimizer(other, content)
    assert not other.optimizer.state_dict()["state"] and "does not fit" in caplog.text


def test_harden_takes_no_hardened_model_for_the_plain_one(settings, caplog):
    trainer, _ = fit(config_of(settings, checkpoint_dir="hardened"), saved=True)
    result = harden_checkpoint(trainer.saved_model_file, config_dict={"attack_radii": [0.1]})
    assert result["search"] == "" and result["repair"]
    assert "ft_radius: 0.1, for rawp_radius=auto is found in stage 1 only" in caplog.text


def test_a_trial_of_a_search_finds_its_radius_and_is_attacked_at_the_number_of_all(settings):
    result = objective_function(settings("NeuMF", defense="rawp", ft_radius=None))
    assert result["attack"] == {"radius": 0.1, "steps": 1}


@pytest.mark.parametrize("given", [{}, {"ft_radius": 0.07}])
def test_harden_of_any_plain_checkpoint_does_both_stages_of_the_default(given, plain):
    result = harden_checkpoint(str(plain), config_dict={"attack_radii": [0.1], "state": "info", **given})
    assert result["search"].startswith("rawp_radius auto: ") and result["repair"]
    settings = yaml.safe_load(Path(result["output_dir"], "settings.yaml").read_text())
    assert settings["defense"] == "rawp_ft"


def test_the_baseline_is_the_plain_model_that_the_search_begins_with(settings, monkeypatch):
    given = settings("NeuMF", defense="rawp", rawp_output_dir="both", attack=["noise"], attack_radii=[0.1])
    result = run_recbole_rawp(config_dict=given, baseline=True)
    assert result["search"].startswith("rawp_radius auto: ") and not Path("both/model-plain.pth").exists()
    assert {record.defense for record in result["records"]} == {"none", "rawp"}
    begun = next(row for row in pd.read_csv("both/radius.csv").itertuples())
    assert begun.epoch == checkpoint.read("both/baseline/model.pth")["epoch"] + 1 + AFTER

"""`rawp_radius: auto` finds the radius, and leaves everything else as it was."""

from __future__ import annotations

import copy
import math
import random
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest

from recbole_rawp import objective_function, register
from recbole_rawp.config import settings as options
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.jobs.harden import harden_checkpoint
from recbole_rawp.training.radius import callback
from recbole_rawp.training.radius.rule import FINE, RadiusSearch, confirmed, smoothed
from recbole_rawp.training.registration import unregister
from tests.training import made, same

PLAIN = [0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def searched(score, *, plain=PLAIN, bigger=True, largest=1.0, validations=20):
    """Run the rule on a score that is a function of the radius."""
    search = RadiusSearch(0.01, bigger, largest, plain=plain, trained_plainly=True)
    for epoch in range(validations):
        search.decide(epoch, score(search.radius))
    return search


# --- the rule


def test_a_score_that_falls_with_the_square_of_the_radius_gives_that_which_the_budget_affords():
    found = []
    for affordable in (0.002 * 450 ** (k / 60) for k in range(60)):
        search = searched(lambda radius, a=affordable: 0.5 * (1 - 0.01 * (radius / a) ** 2), validations=60)
        assert search.chosen.radius <= affordable * 1.001 and search.within_budget(search.chosen)
        assert search.chosen.score >= search.needed() == pytest.approx(0.495)
        found.append(affordable / search.chosen.radius)
    assert max(found) < 2 and statistics.median(found) < 1.2


def test_the_rule_is_the_same_where_less_is_better():
    mirrored = searched(lambda radius: 1 + 10 * radius**2, plain=[3.0, 1.5, 1.0, 1.0], bigger=False)
    assert mirrored.needed() == pytest.approx(1 / 0.99)
    assert mirrored.chosen.radius == max(r.radius for r in mirrored.path if r.confirmed <= mirrored.needed())
    assert 0.02 < mirrored.chosen.radius <= (0.0101 / 10) ** 0.5


def test_noise_of_the_size_of_the_budget_moves_the_radius_by_no_more_than_a_factor_of_three():
    for seed in range(20):
        noise = random.Random(seed).gauss
        search = searched(lambda radius, noise=noise: 0.5 * (1 - 0.01 * (radius / 0.1) ** 2 + noise(0, 0.005)))
        assert 0.1 / 3 < search.chosen.radius < 0.3


def test_where_no_radius_costs_anything_the_largest_is_taken_and_never_passed():
    search = searched(lambda radius: 0.5)
    assert search.chosen.radius == 1.0 == max(row.radius for row in search.path)


def test_where_every_radius_costs_too_much_the_smallest_is_tried_and_nothing_is_chosen():
    search = searched(lambda radius: 0.1)
    assert search.chosen is None and not any(row.passed for row in search.path)
    assert {row.radius for row in search.path} == {options.START}
    assert not search.gives_up(impatient=True)  # there is no smaller one


SLOW = [0.2, 0.42, 0.44, *[0.45] * 5, 0.48, *[0.5] * 10]


class Trap:
    """A model that learns as the plain one, but no further than 0.45 once it was moved by more than `edge`."""

    def __init__(self, edge):
        self.edge, self.widest, self.scores = edge, 0.0, iter(SLOW)

    def score(self, radius):
        self.widest = max(self.widest, radius)
        return min(next(self.scores, 0.5), 0.5 if self.widest <= self.edge else 0.45)


@pytest.mark.parametrize(("edge", "attempts"), [(0.3, 2), (0.1, 3), (0.005, 5)])
def test_a_model_that_was_moved_too_far_begins_anew_with_a_quarter_of_the_radius(edge, attempts):
    search, trap = RadiusSearch(0.01, True, 1.0, plain=SLOW, trained_plainly=True), Trap(edge)
    for epoch in range(200):
        search.decide(epoch, trap.score(search.radius))
        if search.gives_up(impatient=False):
            search.begin_anew()
            trap = Trap(edge)
    assert search.attempt == attempts and search.within_budget(search.chosen)
    assert edge / 4 < search.chosen.radius <= edge and search.chosen.attempt == attempts
    widest = [max(row.radius for row in search.path if row.attempt == n + 1) for n in range(attempts)]
    assert all(after <= before / 4 for before, after in zip(widest, widest[1:]))


def test_within_the_budget_nothing_begins_anew():
    search = searched(lambda radius: 0.5 if radius < 0.1 else 0.1)
    assert search.attempt == 1 and not search.gives_up(impatient=True)


def test_a_score_that_is_not_a_number_is_refused():
    (row,) = searched(lambda radius: math.nan, validations=1).path
    assert not row.passed and not row.kept and not row.waits


def test_a_hardened_model_has_more_time_at_first_and_none_in_the_end():
    search = RadiusSearch(0.01, True, 1.0, plain=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6], trained_plainly=True)
    needed = [search.needed(k) / 0.99 for k in range(1, 11)]
    assert needed == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6])


def test_the_plain_model_would_pass_its_own_measure_until_its_best():
    for seed in range(50):
        noise = random.Random(seed).random
        plain = [0.02 * min(k, 15) + 0.1 * noise() for k in range(1, 21)]
        search = RadiusSearch(1e-9, True, 1.0, plain=plain, trained_plainly=True)
        smooth = smoothed(plain, bigger=True)
        best = smooth.index(max(smooth))
        assert all(search.decide(k, score) for k, score in enumerate(smooth[: best + 1]))
        needed = [search.needed(k) for k in range(1, 21)]
        assert needed == sorted(needed) and needed[-1] == search.needed()


def test_where_the_plain_score_dips_the_hardened_may_dip_too():
    """Else the search would go back for ever: no radius, however small, passes where the plain model does not."""
    search = RadiusSearch(0.01, True, 1.0, plain=[0.12, 0.12, 0.07, 0.07, 0.1, 0.2, 0.2], trained_plainly=True)
    assert [search.needed(k) / 0.99 for k in (1, 2, 4, 5, 6, 7)] == pytest.approx([0.07] * 3 + [0.07, 0.2, 0.2])
    mirrored = RadiusSearch(0.01, False, 1.0, plain=[5.0, 5.0, 8.0, 8.0, 4.0, 4.0], trained_plainly=True)
    assert mirrored.needed(1) * 0.99 == pytest.approx(8.0) and mirrored.needed(6) * 0.99 == pytest.approx(4.0)


def test_until_one_is_within_the_budget_the_best_is_chosen_then_the_largest_radius():
    search = RadiusSearch(0.01, True, 1.0, plain=[0.1, 0.5, 0.5, 0.5, 0.5], trained_plainly=True)
    chosen = []
    for epoch, score in enumerate([0.2, 0.3, 0.496, 0.495, 0.6, 0.495, 0.496]):
        search.decide(epoch, score)
        chosen.append(search.chosen.epoch)
        assert sum(row.chosen for row in search.path) == 1
    assert chosen == list(range(7)) and search.path[6].radius == search.path[5].radius == 1.0
    for epoch, score in enumerate([0.1, 0.1, 0.5, 0.5], 7):  # the last two pass, at smaller radii
        search.decide(epoch, score)
    assert [row.passed for row in search.path[7:]] == [False, False, True, True]
    assert search.path[9].radius < 1.0 == search.chosen.radius


def test_at_equal_radius_the_one_confirmed_best_is_chosen():
    search = searched(None, validations=0)
    for epoch, score in enumerate([0.5, 0.5, 0.5, 0.5, 0.5, 0.496, 0.498, 0.499, 0.497]):
        search.decide(epoch, score)
    assert [row.radius for row in search.path[5:]] == [1.0] * 4
    assert [row.confirmed for row in search.path[6:]] == [0.496, 0.498, 0.497] and search.chosen.epoch == 7


def test_the_steps_get_finer_at_each_turn():
    search = searched(lambda radius: 0.5 if radius < 0.1 else 0.1)
    factors = [b.radius / a.radius for a, b in zip(search.path, search.path[1:])]
    assert factors[:4] == pytest.approx([4, 4, 4, 4]) and min(f for f in factors if f > 1) == pytest.approx(FINE)


def test_a_model_that_is_late_but_learns_is_kept_while_the_radius_falls():
    search = RadiusSearch(0.01, True, 1.0, plain=[0.1, 0.5, 0.5, 0.5], trained_plainly=True)
    kept = [search.decide(epoch, score) for epoch, score in enumerate([0.2, 0.3, 0.35, 0.34, 0.4, 0.6])]
    assert [row.passed for row in search.path] == [True, True, False, False, False, True]
    assert kept == [row.kept for row in search.path] == [True, True, True, False, True, True]
    assert [row.waits for row in search.path] == [False, False, False, True, False, False]
    radii = [row.radius for row in search.path[2:]]
    assert radii[0] > radii[1] == radii[2] > radii[3]


def test_a_first_refusal_leaves_the_radius_as_it_is_and_a_second_one_does_not():
    search = searched(None, validations=0)
    for epoch, score in enumerate([0.5, 0.5, 0.1, 0.5, 0.1, 0.1, 0.1, 0.5, 0.1]):
        search.decide(epoch, score)
    waits = [row.epoch for row in search.path if row.waits]
    assert waits == [2, 4, 8]
    radii = [row.radius for row in search.path]
    assert radii[2] == radii[3] and radii[4] == radii[5] == 4 * radii[3] and radii[5] > radii[6] > radii[7]
    start = searched(lambda radius: 0.1, validations=3)
    assert [row.waits for row in start.path] == [True, False, False]


def test_smoothing_takes_the_lucky_score_out_and_leaves_a_steady_climb():
    assert smoothed([0.1, 0.2, 0.3, 0.4], bigger=True) == [0.1, 0.2, 0.3, 0.3]
    assert smoothed([0.1, 0.2, 0.9, 0.3, 0.3], bigger=True) == [0.1, 0.2, 0.3, 0.3, 0.3]
    assert smoothed([3.0, 2.0, 0.1, 2.0], bigger=False) == [3.0, 2.0, 2.0, 2.0]
    assert smoothed([0.7], bigger=True) == [0.7] and smoothed([], bigger=True) == []


def test_a_score_is_confirmed_by_two_of_three_and_never_beyond_itself():
    cases = {(0.4, 0.5): 0.4, (0.1, 0.2, 0.9): 0.2, (0.5, 0.1, 0.6): 0.5, (0.9, 0.9, 0.3): 0.3, (0.5,): -math.inf}
    cases |= {(math.nan, math.nan, 0.5): -math.inf, (math.nan, 0.5, 0.4): 0.4, (0.9, 0.1, 0.1, 0.5): 0.1}
    for scores, sure in cases.items():
        assert confirmed(list(scores), bigger=True) == sure
        assert confirmed([-score for score in scores], bigger=False) == -sure


def test_a_radius_is_confirmed_from_it_and_beyond_and_doubted_from_it_and_below():
    search = searched(None, validations=0)
    search.radius = 0.1
    rows = [
        (0.05, 0.5, False),
        (0.05, 0.1, True),
        (0.1, 0.5, True),
        (0.1, 0.1, True),
        (0.2, 0.5, True),
        (0.2, 0.1, False),
    ]
    for radius, score, speaks in rows:
        assert search._speaks(SimpleNamespace(radius=radius, score=score)) is speaks


def test_luck_at_a_radius_that_is_refused_otherwise_is_seldom_chosen():
    chosen = []
    for seed in range(100):
        lucky = random.Random(seed).random
        search = searched(lambda radius, lucky=lucky: 0.5 if radius < 0.017 or lucky() < 0.1 else 0.1, validations=40)
        chosen.append(search.within_budget(search.chosen) and search.chosen.radius > 0.033)
    assert sum(chosen) <= 5


def test_while_only_luck_keeps_the_budget_training_begins_anew():
    search = searched(None, validations=0)
    for epoch, score in enumerate([0.2, 0.3, 0.4, 0.1, 0.1, 0.5, 0.1]):
        search.decide(epoch, score)
    assert search.path[5].passed and not search.within_budget(search.chosen)
    assert search.gives_up(impatient=True)
    early = searched(lambda radius: 0.5 if radius == options.START else 0.3, validations=7)  # the first one alone
    assert early.path[0].confirmed == -math.inf and not early.within_budget(early.chosen)


# --- in training


def config_of(settings, name="NeuMF", **overrides):
    return RAWPConfig(
        config_dict=settings(name, **{"defense": "rawp", "rawp_radius": "auto", "epochs": 6, **overrides})
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
    assert auto.state.search.plain == [float(score) for score in scores]
    file = Path(auto.saved_model_file)
    mine = checkpoint.read(file.with_stem(f"{file.stem}-plain"))
    assert same(mine["state_dict"], checkpoint.read(plain.saved_model_file)["state_dict"])


@pytest.mark.parametrize("name", ["NeuMF", "DCN", "MultiVAE", "DiffRec", "RecVAE"])
def test_the_search_begins_where_the_plain_training_began(name, settings, monkeypatch):
    """With delta * 0 and an endless budget the search is the plain training once more, state outside weights too."""
    from recbole_rawp.core import objective

    ascend = objective.ascend
    monkeypatch.setattr(objective, "ascend", lambda *a, **k: {n: d * 0 for n, d in ascend(*a, **k).items()})
    options_ = {"rawp_clean_budget": 0.999, "rawp_clean_weight": 0.0, "rawp_mask_probability": 1.0}
    trainer, scores = fit(config_of(settings, name, **options_))
    search = trainer.state.search
    assert [float(score) for score in scores] == search.plain == [row.score for row in search.path]


def test_an_endless_budget_ends_at_the_largest_radius(settings):
    wide, _ = fit(config_of(settings, rawp_clean_budget=0.99, epochs=7))
    assert wide.state.search.chosen.radius == 1.0 == wide.objective.recipe.radius


def test_two_refused_validations_put_weights_and_optimizer_back_and_one_does_not(settings, monkeypatch):
    states, decide, before = [], RadiusSearch.decide, callback._decide

    def every_third(self, epoch, score):
        return decide(self, epoch, 1.0 if epoch % 3 == 0 else -1.0)

    def watched(trainer, *args):
        before(trainer, *args)
        states.append(copy.deepcopy(trainer.trained()))

    monkeypatch.setattr(RadiusSearch, "decide", every_third)
    monkeypatch.setattr(callback, "_decide", watched)
    trainer, _ = fit(config_of(settings))
    assert [row.passed for row in trainer.state.search.path] == [True, False, False] * 2
    for kept, waiting, refused in (states[:3], states[3:]):
        assert same(kept["weights"], refused["weights"]) and not same(kept["weights"], waiting["weights"])
        (mine, theirs) = (state["optimizers"]["optimizer"]["state"] for state in (kept, refused))
        assert all(same(mine[k], theirs[k]) for k in mine) and mine.keys() == theirs.keys()
    assert not same(states[0]["weights"], states[3]["weights"])


@pytest.mark.parametrize("warm_up", [0, 1])
def test_what_begins_anew_has_the_weights_and_the_optimizer_of_the_start(warm_up, settings, monkeypatch):
    states, before = [], callback._decide

    def watched(trainer, *args):
        before(trainer, *args)
        states.append(copy.deepcopy(trainer.trained()) | {"waited": trainer.cur_step})

    monkeypatch.setattr(callback, "_decide", watched)
    monkeypatch.setattr(RadiusSearch, "gives_up", lambda self, impatient: len(states) == 3)
    trainer, _ = fit(config_of(settings, rawp_warmup_epochs=warm_up, rawp_clean_budget=0.9))
    start = trainer.state.search.start if warm_up == 0 else states[0]
    assert same(states[3]["weights"], start["weights"]) and states[3]["waited"] == 0
    assert not same(states[2]["weights"], start["weights"])
    steps = [len(state["optimizers"]["optimizer"]["state"]) for state in (states[2], states[3])]
    assert steps[0] > 0 and (steps[1] > 0) == (warm_up > 0)
    rows = trainer.state.search.path
    assert [row.attempt for row in rows] == [1] * (4 - warm_up) + [2, 2]
    assert rows[4 - warm_up].radius == options.START and rows[-1].radius <= trainer.state.search.largest
    again = RadiusSearch(0.9, True, 1.0, plain=trainer.state.search.plain)
    assert rows[4 - warm_up].needed == again.needed(1 + warm_up)


def test_patience_may_end_at_a_validation_after_which_nothing_was_perturbed(settings, monkeypatch):
    """One tensor and a mask for each epoch: RecBole's patience counts every validation, the path every second one."""
    asked = []
    monkeypatch.setattr(RadiusSearch, "gives_up", lambda self, impatient: asked.append(impatient))
    one = {"rawp_target": ["mlp_layers.mlp_layers.1.weight"], "rawp_mask_every": "epoch", "rawp_mask_probability": 0.4}
    trainer, _ = fit(config_of(settings, rawp_clean_budget=0.9, **one))
    assert 0 < len(trainer.state.search.path) < len(asked) == 6


def test_without_files_the_chosen_weights_are_in_the_model(settings, monkeypatch):
    trainer, _ = fit(config_of(settings, checkpoint_dir="saved"), saved=True)
    best = checkpoint.read(trainer.saved_model_file)
    assert best["epoch"] == trainer.state.search.chosen.epoch
    unsaved, _ = fit(config_of(settings))
    assert same(unsaved.model.state_dict(), best["state_dict"])
    assert unsaved.best_valid_score == trainer.best_valid_score == trainer.state.search.chosen.score


def test_warm_up_epochs_stay_plain_and_leave_the_radius_alone(settings):
    trainer, _ = fit(config_of(settings, rawp_warmup_epochs=3))
    assert [row.epoch for row in trainer.state.search.path] == [3, 4, 5]
    assert trainer.state.search.path[0].radius == options.START


def test_stage_2_takes_the_radius_found_and_what_the_budget_leaves(settings):
    trainer, _ = fit(config_of(settings, defense="rawp_ft", rawp_clean_budget=0.5, ft_radius=None, epochs=8))
    chosen = trainer.state.search.chosen
    assert trainer.fine_tuning.recipe.radius == chosen.radius > options.START
    assert trainer.fine_tuning.clean_tolerance == max(0.985, min(1.0, trainer.state.search.needed() / chosen.confirmed))
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
    granularity = {"rawp_granularity": "row"} if target == "activations" else {}
    trainer, _ = fit(config_of(settings, rawp_target=target, **granularity))
    assert len(trainer.state.search.path) == 6


def test_harden_and_a_trial_of_a_search_want_a_number(settings, plain):
    with pytest.raises(InputError, match="ft_radius: missing"):
        harden_checkpoint(str(plain), config_dict={"rawp_radius": "auto", "ft_radius": None})
    with pytest.raises(InputError, match="ft_radius: missing"):
        objective_function(settings("NeuMF", defense="rawp", rawp_radius="auto", ft_radius=None))

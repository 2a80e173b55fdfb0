"""The search for the radius stops, keeps and refuses what it should, in training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.trainer.trainer import Trainer
from recbole.utils import get_trainer

from recbole_rawp import objective_function, register, run_recbole_rawp
from recbole_rawp.config.settings import START, read
from recbole_rawp.core import objective
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.jobs.harden import harden_checkpoint
from recbole_rawp.training.plain_values import copied
from recbole_rawp.training.radius import callback, checks
from recbole_rawp.training.radius.rule import RadiusSearch, Validation
from recbole_rawp.training.registration import robustify, unregister
from recbole_rawp.training.stage2 import repair
from tests.test_radius_search import config_of, fit
from tests.training import made, same


def scored(monkeypatch, scores):
    """Let the validations give these scores, in both phases."""
    given = iter(scores)
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (score := next(given), {"mrr@10": score}))


# --- early stopping


def test_the_search_goes_on_while_it_chooses_and_stops_as_recbole_when_it_does_not(settings, monkeypatch):
    scored(monkeypatch, [*[0.5] * 12, *(0.5 - 0.0002 * k for k in range(12))])
    trainer, scores = fit(config_of(settings, epochs=12, stopping_step=1))
    assert [row.chosen for row in trainer.state.search.path] == [*[False] * 6, True, False, False]
    assert trainer.state.search.path[6].radius == 1.0 and len(scores) == 9
    assert trainer.best_valid_result == {"mrr@10": trainer.best_valid_score} == {"mrr@10": 0.5 - 0.0002 * 6}


def test_a_plain_model_that_stopped_early_leaves_the_search_all_of_its_epochs(settings, monkeypatch):
    scored(monkeypatch, [0.5, 0.4, 0.4, *[0.5] * 6])
    trainer, scores = fit(config_of(settings, epochs=6, stopping_step=1))
    assert trainer.state.search.plain == [0.5, 0.4, 0.4] and len(scores) == 6


# --- what is kept


def test_stage_2_starts_from_the_chosen_model_with_files_and_without(settings, monkeypatch):
    """The first is chosen, while the clean score goes on rising."""

    def first(self, epoch, score):
        self.path.append(Validation(1, epoch, 0.1, score, score, 0.0, True, True, False, chosen=not self.path))
        return True

    begun = []
    monkeypatch.setattr(RadiusSearch, "decide", first)
    monkeypatch.setattr(repair, "repair", lambda trainer, *_, **__: begun.append(copied(trainer.model.state_dict())))
    for saved, folder in ((False, "none"), (True, "files")):
        trainer, scores = fit(config_of(settings, defense="rawp_ft", checkpoint_dir=folder), saved=saved)
        assert max(scores) > scores[0] and trainer.state.search.chosen.epoch == 0
    assert same(*begun)


def test_no_file_takes_the_plain_model_for_the_hardened_one(settings, monkeypatch):
    class Killed(BaseException):
        """Stands for the kill."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RadiusSearch, "decide", killed)
        with pytest.raises(Killed):
            run_recbole_rawp(config_dict=settings("NeuMF", defense="rawp", rawp_radius="auto", rawp_output_dir="out"))
    assert not Path("out/model.pth").exists() and Path("out/model-plain.pth").exists()


def test_the_file_of_the_chosen_model_tells_its_own_score(settings, monkeypatch):
    scored(monkeypatch, [*[0.5] * 6, 0.5, 0.499, 0.498, 0.1, 0.497, 0.496])
    trainer, _ = fit(config_of(settings, checkpoint_dir="saved"), saved=True)
    best = checkpoint.read(trainer.saved_model_file)
    assert best["best_valid_score"] == trainer.state.search.chosen.score == trainer.best_valid_score < 0.5
    assert best["epoch"] == trainer.state.search.chosen.epoch


def test_what_was_cached_of_refused_weights_is_forgotten(settings):
    trainer, _ = made(config_of(settings, "LightGCN", rawp_target="embeddings"))
    state = copied(trainer.trained())
    trainer.model.restore_user_e = torch.ones(1)
    trainer.put_trained(state)
    assert trainer.model.restore_user_e is None


def test_a_warm_up_counts_as_passed(settings):
    search = RadiusSearch(0.01, True, 1.0, plain=[0.1, 0.2, 0.3, 0.4], trained_plainly=True, warmed=3)
    assert not search.decide(3, 0.25) and search.path[0].needed == search.needed(4)
    trainer, _ = fit(config_of(settings, rawp_warmup_epochs=3, rawp_clean_budget=0.5))
    assert trainer.state.search.path[0].needed == trainer.state.search.needed(4)


def test_a_late_model_that_learns_after_the_warm_up_is_kept(settings, monkeypatch):
    scored(monkeypatch, [0.5] * 5 + [0.3, 0.3, 0.4, 0.2, 0.496])
    trainer, _ = fit(config_of(settings, epochs=5, rawp_warmup_epochs=2))
    assert [(row.kept, row.passed) for row in trainer.state.search.path] == [
        (True, False),
        (False, False),
        (True, True),
    ]


def test_no_radius_is_found_by_an_epoch_before_which_nothing_was_perturbed(settings, monkeypatch):
    given = {"rawp_clean_budget": 0.9, "rawp_mask_every": "epoch", "epochs": 3}
    drawn = []

    def draw_mask(names, *_):
        drawn.append(1)
        return dict.fromkeys(names, len(drawn) > 2)

    monkeypatch.setattr(objective, "draw_mask", draw_mask)
    trainer, _ = fit(config_of(settings, **given))
    assert [row.epoch for row in trainer.state.search.path] == [1, 2] and trainer.state.search.path[0].radius == START
    monkeypatch.setattr(objective, "draw_mask", lambda names, *_: dict.fromkeys(names, False))
    with pytest.raises(InputError, match="^rawp_radius: auto saw no validation after a perturbation"):
        fit(config_of(settings, **given))


def test_an_epoch_of_empty_masks_tells_nothing_of_the_radius(settings, monkeypatch):
    drawn = []

    def draw_mask(names, *_):
        drawn.append(1)  # the first draw is the constructor's: every other epoch from the second on is plain
        return dict.fromkeys(names, len(drawn) % 2 == 0)

    monkeypatch.setattr(objective, "draw_mask", draw_mask)
    trainer, _ = fit(config_of(settings, rawp_clean_budget=0.9, rawp_mask_every="epoch"))
    path = [(row.epoch, row.radius / START) for row in trainer.state.search.path]
    assert path == [(0, 1), (2, 4), (4, 16)] and trainer.state.search.warmed == 3
    assert trainer.state.search.path[-1].needed == trainer.state.search.needed(5)


def test_an_epoch_of_empty_masks_in_a_wait_keeps_nothing(settings, monkeypatch):
    drawn, states, before = [], [], callback._decide

    def draw_mask(names, *_):
        drawn.append(1)  # the first draw is the constructor's: the fourth epoch is plain
        return dict.fromkeys(names, len(drawn) != 5)

    def watched(trainer, *args):
        states.append(copied(trainer.model.state_dict()))
        before(trainer, *args)

    monkeypatch.setattr(objective, "draw_mask", draw_mask)
    monkeypatch.setattr(callback, "_decide", watched)
    scored(monkeypatch, [*[0.5] * 5, 0.5, 0.5, 0.1, 0.12, 0.13])
    trainer, _ = fit(config_of(settings, epochs=5, rawp_mask_every="epoch"))
    found = trainer.state.search
    assert [(row.epoch, row.kept) for row in found.path] == [(0, True), (1, True), (2, False), (4, False)]
    assert found.kept_score == 0.5 and same(found.kept["weights"], states[1]) and found.warmed == 0


@pytest.mark.parametrize("bigger", [True, False])
def test_stage_2_may_lose_what_the_budget_has_left(settings, bigger):
    ft = read(config_of(settings, defense="rawp_ft")).fine_tuning

    def left(plain, score):
        search = RadiusSearch(0.1, bigger, 1.0, plain=[plain, plain])
        search.path.append(Validation(1, 0, 0.2, score, score, 0.0, True, True, False, chosen=True))
        return callback.with_found(ft, search, {"ft_radius": None}).clean_tolerance

    assert ft.clean_tolerance == 0.985
    assert left(0.5, 0.451 if bigger else 0.554) == pytest.approx(0.45 / 0.451 if bigger else 0.554 / (0.5 / 0.9))
    assert left(0.5, 0.6 if bigger else 0.4) == 0.985  # no looser than as set
    assert left(0.5, 0.4 if bigger else 0.6) == 1.0  # over the budget already
    assert left(0.0, 0.0) == 1.0


# --- absolute radii


@pytest.mark.parametrize("defense", ["sam", "asam", "apr"])
def test_an_absolute_radius_is_no_larger_than_the_weights(defense, settings):
    trainer, _ = made(config_of(settings, defense=defense))
    weights, _ = chosen_weights(trainer.model, trainer.settings.training)
    everything = torch.cat([weight.detach().flatten() for weight in weights.values()])
    sizes = {
        "sam": everything.norm(),
        "asam": len(everything) ** 0.5,
        "apr": max(weight.detach().norm(dim=1).max() for weight in weights.values()),
    }
    assert callback.size(trainer) == pytest.approx(float(sizes[defense]))


def test_without_that_bound_the_radius_would_grow_until_the_loss_is_nan(settings, monkeypatch):
    options = {"defense": "sam", "rawp_clean_budget": 0.99, "epochs": 24, "train_batch_size": 8192}
    trainer, _ = fit(config_of(settings, **options))
    radii = [row.radius for row in trainer.state.search.path]
    assert len(radii) == 24 and max(radii) == trainer.state.search.largest < 100
    monkeypatch.setattr(callback, "size", lambda trainer: float("inf"))
    with pytest.raises(ValueError, match="Training loss is nan"):
        fit(config_of(settings, **options | {"epochs": 40}))


# --- what is refused

NO_VALID = {"eval_args": {"split": {"RS": [0.9, 0.0, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval_step": 0}, "eval_step: 0 validates never"),
        (NO_VALID, "rawp_radius: auto goes by valid data"),
        ({"rawp_warmup_epochs": 2}, "rawp_warmup_epochs: 2 of 2 epochs"),
        ({"rawp_warmup_epochs": 1, "eval_step": 5, "epochs": 1}, "rawp_warmup_epochs: 1 of 1 epochs"),
        ({"defense": "none", "ft_rounds": 1}, "ft_radius: missing"),
        ({"epochs": 0, "defense": "rawp_ft"}, "ft_radius: missing"),
    ],
)
def test_nothing_is_written_before_a_refusal(overrides, message, settings):
    given = {"defense": "rawp", "rawp_radius": "auto", "ft_radius": None, "rawp_output_dir": "out", **overrides}
    with pytest.raises(InputError, match=f"^{message}"):
        run_recbole_rawp(config_dict=settings("NeuMF", **given))
    assert not Path("out").exists()


def test_stage_2_after_recboles_resume_at_the_last_epoch_has_no_radius_and_says_so(settings, plain):
    trainer, data = made(config_of(settings, defense="rawp_ft", ft_radius=None, epochs=2))
    before = plain.read_bytes()
    trainer.resume_checkpoint(str(plain))
    trainer.start_epoch = 2
    with pytest.raises(InputError, match="^ft_radius: missing"):
        trainer.fit(data.train, data.valid)
    assert plain.read_bytes() == before


def test_several_processes_and_hardened_pretraining_are_refused(settings):
    trainer, data = made(config_of(settings))
    trainer.config["single_spec"] = False
    with pytest.raises(InputError, match="^nproc: "):
        checks.check_searchable(trainer.settings.training, trainer.config, trainer.model, data.valid)
    config = config_of(settings, rawp_pretraining=True)
    data, model = prepare(config)
    model.train_stage = "pretrain"
    for refused in (
        lambda: checks.check_searchable(read(config).training, config, model, data.valid),
        lambda: robustify(get_trainer(config["MODEL_TYPE"], "NeuMF"))(config, model),
    ):
        with pytest.raises(InputError, match="^rawp_radius: auto goes by valid scores, and pretraining has none"):
            refused()
    config["rawp_pretraining"] = False
    checks.check_searchable(read(config).training, config, model, None)


def test_a_budget_that_nothing_keeps_is_one_line_and_leaves_the_plain_model(settings, monkeypatch):
    scored(monkeypatch, [0.5, 0.5, 0.1, 0.1])
    with pytest.raises(InputError, match="^rawp_clean_budget: 0.01 was kept at no validation"):
        fit(config_of(settings, epochs=2, checkpoint_dir="saved"), saved=True)
    assert [file.stem.endswith("-plain") for file in Path("saved").glob("*.pth")] == [True]


def test_harden_and_tuning_take_a_number_for_stage_2(settings, plain):
    """With `ft_radius`, `harden` needs no search; not even validations in training."""
    options = {"rawp_radius": "auto", "ft_radius": 0.1, "eval_step": 0, "attack_radii": [0.1]}
    result = harden_checkpoint(str(plain), config_dict=options)
    assert result["search"] == "" and result["repair"]
    assert objective_function(settings("NeuMF", defense="rawp", rawp_radius="auto", ft_radius=0.1))["attack"]


def test_a_model_with_nothing_to_perturb_trains_plainly_in_recboles_own_run(settings):
    from recbole.quick_start import run_recbole

    register()
    try:
        given = settings("BPR", defense="rawp_ft", rawp_radius="auto", ft_radius=None, checkpoint_dir="theirs")
        assert run_recbole(config_dict=given)["test_result"]
    finally:
        unregister()
    assert not list(Path("theirs").glob("*-plain.pth"))

"""The search for the radius stops, keeps and refuses what it should, in training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from recbole.trainer.trainer import Trainer
from recbole.utils import get_trainer

from recbole_rawp import register, run_recbole_rawp
from recbole_rawp.config.schema import START
from recbole_rawp.config.settings import read
from recbole_rawp.core import objective
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import chosen_weights
from recbole_rawp.jobs.harden import harden_checkpoint
from recbole_rawp.training.plain_values import copied
from recbole_rawp.training.radius import callback, checks
from recbole_rawp.training.radius.rule import GROWTH, JUMP, RadiusSearch, Validation
from recbole_rawp.training.registration import robustify, unregister
from recbole_rawp.training.stage2 import repair
from tests.test_radius_search import config_of, fit
from tests.training import made, same


def scored(monkeypatch, scores):
    """Let the validations give these scores, in both phases."""
    given = iter(scores)
    monkeypatch.setattr(Trainer, "_valid_epoch", lambda *_, **__: (score := next(given), {"mrr@10": score}))


# --- early stopping


def test_a_plain_model_that_stopped_early_has_its_ramp_and_that_does_not_stop(settings, monkeypatch):
    scored(monkeypatch, [0.5, 0.4, 0.4, 0.5, 0.5, *(0.5 - 0.0002 * k for k in range(20))])
    trainer, scores = fit(config_of(settings, epochs=6, stopping_step=1))
    search = trainer.state.search
    assert search.plain == [0.5, 0.4, 0.4, 0.5, 0.5] and search.measure == pytest.approx(0.46)
    assert [row.epoch for row in search.path] == list(range(5, 25))
    assert len(scores) == 22 and search.chosen.epoch == 24
    assert trainer.best_valid_result == {"mrr@10": trainer.best_valid_score} == {"mrr@10": 0.5 - 0.0002 * 19}


# --- what is kept


def test_stage_2_starts_from_the_chosen_model_with_files_and_without(settings, monkeypatch):
    """The first is chosen, and training goes on."""

    def first(self, epoch, score):
        row = Validation(epoch, 0.1, score, True, chosen=not self.path)
        self.path.append(row)
        return row

    begun = []
    monkeypatch.setattr(RadiusSearch, "decide", first)
    monkeypatch.setattr(repair, "repair", lambda trainer, *_, **__: begun.append(copied(trainer.model.state_dict())))
    for saved, folder in ((False, "none"), (True, "files")):
        trainer, _ = fit(config_of(settings, defense="rawp_ft", checkpoint_dir=folder), saved=saved)
        assert trainer.state.search.chosen is trainer.state.search.path[0]
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
    scored(monkeypatch, [*[0.5] * 6, 0.5, 0.499, 0.498, 0.1, 0.497, 0.496, *[0.1] * 14])
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


def test_an_epoch_of_empty_masks_tells_nothing_of_the_radius(settings, monkeypatch):
    drawn = []

    def draw_mask(names, *_):
        drawn.append(1)  # the first draw is the constructor's: every other epoch from the second on is plain
        return dict.fromkeys(names, len(drawn) % 2 == 0)

    monkeypatch.setattr(objective, "draw_mask", draw_mask)
    trainer, _ = fit(config_of(settings, rawp_clean_budget=0.9, rawp_mask_every="epoch"))
    path = trainer.state.search.path
    assert [row.epoch for row in path] == [path[0].epoch + 2 * k for k in range(10)]
    assert [row.radius for row in path] == pytest.approx([min(1.0, JUMP * GROWTH**k) for k in range(10)])
    monkeypatch.setattr(objective, "draw_mask", lambda names, *_: dict.fromkeys(names, False))
    with pytest.raises(InputError, match="^rawp_radius: auto saw no validation after a perturbation"):
        fit(config_of(settings, rawp_mask_every="epoch"))


@pytest.mark.parametrize("bigger", [True, False])
def test_stage_2_may_lose_what_the_budget_has_left(settings, bigger):
    ft = read(config_of(settings, defense="rawp_ft")).fine_tuning

    def left(plain, score):
        search = RadiusSearch(0.1, bigger, 1.0, plain=[plain, plain])
        search.path.append(Validation(0, 0.2, score, True, chosen=True))
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


def test_an_absolute_ramp_begins_at_a_share_of_the_weights_and_does_not_pass_them(settings):
    trainer, _ = fit(config_of(settings, defense="sam", rawp_clean_budget=0.99))
    search = trainer.state.search
    assert search.path[0].radius == pytest.approx(JUMP * search.largest) and 1 < search.largest < 100
    assert search.small == pytest.approx(START * search.largest)
    assert max(row.radius for row in search.path) <= search.largest


# --- what is refused

NO_VALID = {"eval_args": {"split": {"RS": [0.9, 0.0, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"eval_step": 0}, "eval_step: 0 validates never"),
        (NO_VALID, "rawp_radius: auto goes by valid data"),
        ({"rawp_warmup_epochs": 2}, "rawp_warmup_epochs: 2 of 2 epochs"),
        ({"rawp_warmup_epochs": 1, "eval_step": 5, "epochs": 1}, "rawp_warmup_epochs: 1 of 1 epochs"),
    ],
)
def test_nothing_is_written_before_a_refusal(overrides, message, settings):
    given = {"defense": "rawp", "rawp_radius": "auto", "ft_radius": None, "rawp_output_dir": "out", **overrides}
    with pytest.raises(InputError, match=f"^{message}"):
        run_recbole_rawp(config_dict=settings("NeuMF", **given))
    assert not Path("out").exists()


def test_stage_2_after_recboles_resume_at_the_last_epoch_has_no_radius_and_says_so(settings, plain, caplog):
    trainer, data = made(config_of(settings, defense="rawp_ft", ft_radius=None, epochs=2))
    trainer.resume_checkpoint(str(plain))
    trainer.start_epoch = 2
    trainer.fit(data.train, data.valid, saved=False)
    assert "ft_radius: 0.1, for rawp_radius=auto is found in stage 1 only" in caplog.text


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


def test_a_budget_that_nothing_keeps_is_said_and_leaves_the_least_harmful_and_the_plain_model(
    settings, monkeypatch, caplog
):
    scored(monkeypatch, [*[0.5] * 5, *[0.1] * 4, 0.2, 0.2, 0.3, *[0.2] * 13])
    trainer, _ = fit(config_of(settings, epochs=2, checkpoint_dir="saved"), saved=True)
    assert "valid score 0.3000 at the least harmful radius 0.00125, but rawp_clean_budget wants 0.4950" in caplog.text
    saved = checkpoint.read(trainer.saved_model_file)
    assert saved["best_valid_score"] == 0.3 and saved["epoch"] == 11
    assert sorted(file.stem.endswith("-plain") for file in Path("saved").glob("*.pth")) == [False, True]


def test_a_training_loss_of_nan_is_a_refused_epoch_and_goes_back_to_what_was_kept(settings, monkeypatch, caplog):
    """In the second hardened epoch, when the first was kept; plain training still ends by RecBole's own error."""
    train, calls = Trainer._train_epoch, []

    def breaks(trainer, *args, **kwargs):
        calls.append(trainer.state.search.trained_plainly and not trainer.state.search.settling)
        result = train(trainer, *args, **kwargs)
        if sum(calls) == 2:
            for weight in trainer.model.parameters():
                weight.data.fill_(float("nan"))
            trainer._check_nan(torch.tensor(float("nan")))
        return result

    monkeypatch.setattr(Trainer, "_train_epoch", breaks)
    trainer, _ = fit(config_of(settings, rawp_clean_budget=0.99))
    path = trainer.state.search.path
    assert [row.passed for row in path[:4]] == [True, False, True, True] and math.isnan(path[1].score)
    assert path[2].radius < path[1].radius and len(path) == trainer.state.search.total
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    assert "the training loss became NaN at radius 0.6" in caplog.text
    monkeypatch.setattr(Trainer, "_train_epoch", lambda trainer, *_, **__: trainer._check_nan(torch.tensor(math.nan)))
    with pytest.raises(ValueError, match="^Training loss is nan"):
        fit(config_of(settings))


def test_a_plain_model_without_a_score_is_one_line(settings, monkeypatch):
    scored(monkeypatch, [float("nan")] * 2)
    with pytest.raises(InputError, match="^valid_metric: mrr@10 of the plain model was never a number"):
        fit(config_of(settings, epochs=2))


def test_harden_with_a_number_is_stage_2_alone(plain):
    """It needs no search; not even validations in training."""
    options = {"rawp_radius": 0.1, "eval_step": 0, "attack_radii": [0.1]}
    result = harden_checkpoint(str(plain), config_dict=options)
    assert result["search"] == "" and result["repair"]
    assert {record.defense for record in result["records"]} == {"none"}


def test_a_model_with_nothing_to_perturb_trains_plainly_in_recboles_own_run(settings):
    from recbole.quick_start import run_recbole

    register()
    try:
        given = settings("BPR", defense="rawp_ft", rawp_radius="auto", ft_radius=None, checkpoint_dir="theirs")
        assert run_recbole(config_dict=given)["test_result"]
    finally:
        unregister()
    assert not list(Path("theirs").glob("*-plain.pth"))

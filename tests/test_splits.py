"""Which splits, validations and ways to save and load work with a defense?"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from recbole_rawp import continue_run, run_recbole_rawp
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests.training import QUICK, fit, run, same, stage_1

SKIPPED = "Stage 2 is skipped: it chooses by valid data, and there are none."


def split(mode="full", group="user", order="RO", **parts):
    return {"eval_args": {"split": parts, "group_by": group, "order": order, "mode": mode}}


@pytest.mark.parametrize("saved", [True, False], ids=["saved", "not saved"])
def test_without_validations_stage_2_repairs_the_last_weights_and_those_are_evaluated(saved, settings):
    _, last = stage_1(settings, defense="rawp_reference", eval_step=0, epochs=3)
    config = RAWPConfig(config_dict=settings("NeuMF", defense="rawp_ft_reference", eval_step=0, epochs=3, **QUICK))
    data, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    trainer.fit(data.train, data.valid, saved=saved)
    result = trainer.evaluate(data.test, load_best_model=saved)
    now = {name: value.clone() for name, value in model.state_dict().items()}
    assert same(last, {**now, **trainer.state.progress.original})
    chosen = [row for row in trainer.state.progress.sweep if row.chosen]
    assert trainer.state.progress.changed() == (not same(last, now)) == (chosen[0].alpha > 0)
    _, fresh = prepare(config)
    fresh.load_state_dict(now)
    other = RAWPFTTrainer(config, fresh)
    other.eval_collector.data_collect(data.train)
    assert other.evaluate(data.test, load_best_model=False) == result
    assert Path(trainer.saved_model_file).exists() == saved


NO_VALID = {
    "ratios": split(RS=[0.8, 0, 0.2]),
    "ratios, sampled": split("uni20", RS=[0.9, 0, 0.1]),
    "last item": split(order="TO", LS="test_only"),
}


@pytest.mark.parametrize(("name", "saved"), [*((name, True) for name in NO_VALID), ("ratios", False)])
def test_without_valid_data_the_last_weights_are_attacked_and_stage_2_is_skipped(name, saved, settings, caplog):
    result = run(settings, **NO_VALID[name], saved=saved, epochs=2)
    assert [r.message for r in caplog.records if "Stage 2" in r.message] == [SKIPPED]
    assert result["repair"] == [] and result["best_valid_result"] is None
    assert {r.stage for r in result["records"]} == {1} and result["best_valid_score"] == -math.inf
    if saved:
        _, last = stage_1(settings, **NO_VALID[name], defense="rawp_ft_reference")
        assert same(last, torch.load("out/model.pth", weights_only=False)["state_dict"])


def test_without_test_data_there_is_nothing_to_attack(settings):
    with pytest.raises(InputError, match="^eval_args: the attacks are measured on test data, and this split has none"):
        run_recbole_rawp(config_dict=settings("NeuMF", **split(order="TO", LS="valid_only")))
    trainer, _ = fit(RAWPConfig(config_dict=settings("NeuMF", **split(order="TO", LS="valid_only"), **QUICK)))
    assert trainer.state.progress is not None  # both stages run, as in RecBole's own `run_recbole`


def test_early_stopping_ends_stage_1_and_stage_2_goes_on_from_there(settings):
    config = RAWPConfig(config_dict=settings("NeuMF", epochs=10, stopping_step=1, **QUICK))
    data, model = prepare(config)
    trainer = RAWPFTTrainer(config, model)
    scores = iter([0.5, 0.9, 0.3, 0.2, 0.1])
    trainer._valid_epoch = lambda *_, **__: (score := next(scores), {trainer.valid_metric: score})
    trainer.fit(data.train, data.valid, saved=False)
    assert len(trainer.train_loss_dict) == trainer.state.progress.start_epoch == 4 and trainer.best_valid_score == 0.1


@pytest.mark.parametrize("metric", ["LogLoss", "RMSE"])
def test_where_less_is_better_stage_2_chooses_the_least(metric, settings):
    own = {"metrics": ["LogLoss", "RMSE"], "valid_metric": metric, "ft_clean_tolerance": 0.5, "ft_learning_rate": 0.1}
    config = RAWPConfig(config_dict=settings("DeepFM", **own, **QUICK))
    trainer, _ = fit(config)
    assert not trainer.valid_metric_bigger and trainer.state.progress.changed()
    sweep = trainer.state.progress.sweep
    (chosen,) = [row for row in sweep if row.chosen]
    assert chosen.robust == min(row.robust for row in sweep) < sweep[0].robust
    assert trainer.best_valid_score == pytest.approx(chosen.clean, abs=1e-4)
    assert trainer.state.progress.robust > trainer.state.progress.clean  # the attack makes it worse, which is more


def test_settings_that_change_no_number(settings):
    usual = run(settings, eval_step=1)["records"]
    Path("out").rename("usual")
    silent = {"loss_decimal_place": 2, "reproducibility": False, "use_gpu": False, "gpu_id": "", "log_wandb": False}
    assert run(settings, eval_step=1, **silent)["records"] == usual


def test_an_eval_step_beyond_the_last_epoch_validates_there(settings):
    late, weights = stage_1(settings, defense="rawp_reference", eval_step=100, epochs=3)
    usual, same_weights = stage_1(settings, defense="rawp_reference", eval_step=3, epochs=3)
    assert late.best_valid_result == usual.best_valid_result is not None and same(weights, same_weights)


def test_seeds_differ(settings):
    (_, one), (_, two) = (stage_1(settings, defense="rawp_reference", seed=seed) for seed in (2020, 7))
    assert not same(one, two)


def test_saved_loaders_change_nothing_of_ours_and_a_killed_run_goes_on(settings, monkeypatch):
    """RecBole 1.2.1 takes its loaders' generators when it saves them, and gives new ones to those that it loads."""
    own = {"save_dataloaders": True, "rawp_output_dir": "out", "epochs": 3, **QUICK}
    whole = run_recbole_rawp(config_dict=settings("NeuMF", **own))
    assert list(Path("saved").glob("*-dataloader.pth")) and whole["repair"]
    Path("out").rename("whole")
    Path("saved").rename("saved before")
    save_state = RAWPFTTrainer.save_state

    def kill(self, epoch, **between):
        save_state(self, epoch, **between)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RAWPFTTrainer, "save_state", kill)
    with pytest.raises(KeyboardInterrupt):
        run_recbole_rawp(config_dict=settings("NeuMF", **own))
    monkeypatch.setattr(RAWPFTTrainer, "save_state", save_state)
    assert continue_run("out")["records"] == whole["records"]


def write_parts(data_path, folder):
    """Write the toy data as three files, of training, valid and test rows."""
    head, *rows = Path(data_path, "toy", "toy.inter").read_text().splitlines()
    home = folder / "toy"
    home.mkdir()
    for part, remainders in (("one", range(8)), ("two", [8]), ("three", [9])):
        kept = [row for number, row in enumerate(rows) if number % 10 in remainders]
        (home / f"toy.{part}.inter").write_text("\n".join([head, *kept]) + "\n")
    return {"data_path": str(folder), "benchmark_filename": ["one", "two", "three"]}


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_splits_that_come_as_files(mode, settings, data_path, tmp_path):
    files = write_parts(data_path, tmp_path)
    columns = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
    result = run(settings, **split(mode, RS=[0.8, 0.1, 0.1]), load_col=columns, **files)
    assert len(result["repair"]) == 1 and result["records"]


OTHER = {
    "users mixed": split(group=None, RS=[0.8, 0.1, 0.1]),
    "users mixed, sampled": split("uni20", group=None, RS=[0.8, 0.1, 0.1]),
    "repeatable, sampled": {"repeatable": True, **split("uni20", RS=[0.8, 0.1, 0.1])},
    "one epoch, one batch": {"epochs": 1, "train_batch_size": 100_000},
    "two decimals": {"metric_decimal_place": 2},
    "no decimals": {"metric_decimal_place": None},
}


@pytest.mark.parametrize("name", OTHER)
def test_both_stages_the_attack_and_the_report_with(name, settings):
    result = run(settings, **OTHER[name])
    assert len(result["repair"]) == 1 and {r.stage for r in result["records"]} <= {1, 2}
    metrics = {r.metric: r.value for r in result["records"] if r.level == 0 and r.stage == 2}
    decimals = OTHER[name].get("metric_decimal_place", 4) or 0
    for metric, value in result["test_result"].items():
        assert value == round(value, decimals)
        if "sampled" not in name:  # RecBole draws other candidates each time
            assert value == pytest.approx(metrics[metric], abs=0.51 * 10**-decimals)


@pytest.mark.parametrize(("model", "norm"), [("DCN", True), ("DeepFM", False)])
def test_a_last_batch_of_one_row(model, norm, settings):
    rows = len(prepare(RAWPConfig(config_dict=settings(model)))[0].train._dataset)
    config = settings(model, train_batch_size=rows - 1, epochs=1, rawp_ascent_fraction=0.5, **QUICK)
    if norm:  # BatchNorm has no statistics of one row, here as in RecBole
        for defense in ("none", "rawp_ft"):
            with pytest.raises(InputError, match="^train_batch_size: the last batch of an epoch has one row"):
                run_recbole_rawp(config_dict=config | {"defense": defense})
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            stage_1(settings, model, defense="none", train_batch_size=rows - 1)
    else:
        assert run_recbole_rawp(config_dict=config)["repair"]

"""RecBole's own entry points give the final, hardened model, and one line does to read it again."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import recbole.trainer
import torch
import yaml
from recbole.quick_start import load_data_and_model, objective_function, run, run_recbole
from recbole.trainer import HyperTuning
from recbole.utils import get_trainer

import recbole_rawp
from recbole_rawp.core import overlay
from recbole_rawp.training.trainer import RAWPFTTrainer
from tests import zoo

ROOT = Path(__file__).parent.parent
REPAIR = {
    "epochs": 3,
    "ft_epochs": 1,
    "learning_rate": 0.05,
    "ft_learning_rate": 0.1,
    "attack_batches": 2,
    "checkpoint_dir": "theirs",
}


@pytest.fixture(autouse=True)
def fits(monkeypatch):
    """The trainers that were fitted, under `register()`."""
    recbole_rawp.register()
    seen, fit, level = [], RAWPFTTrainer.fit, logging.getLogger().level

    def noted(trainer, *args, **kwargs):
        seen.append(trainer)
        return fit(trainer, *args, **kwargs)

    monkeypatch.setattr(RAWPFTTrainer, "fit", noted)
    yield seen
    recbole_rawp.unregister()
    logging.getLogger().setLevel(level)  # which RecBole's objective_function changes


def final():
    """Return the only final checkpoint."""
    (file,) = [path for path in Path("theirs").glob("*.pth") if "stage1" not in path.stem]
    return str(file)


def scores(file):
    """Return what RecBole's plain trainer measures of a checkpoint: the valid and the test result."""
    config, model, _, train, valid, test = load_data_and_model(file)
    trainer = recbole.trainer.Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    return [trainer.evaluate(data, load_best_model=False) for data in (valid, test)]


@pytest.fixture
def always_repaired(monkeypatch):
    """Stage 2 keeps whatever it did, so that its end differs from stage 1's."""
    scores = "recbole_rawp.training.stage2.valid_scores.ValidScores"
    monkeypatch.setattr(f"{scores}.keeps", lambda *_, **__: True)
    monkeypatch.setattr(f"{scores}.better", lambda self, score, than: than is None or score >= 0)


ROUTES = {
    "run_recbole": lambda config, saved: run_recbole(config_dict=config, saved=saved),
    "run": lambda config, saved: run(config["model"], config["dataset"], config_dict=config, saved=saved),
    "objective_function": lambda config, saved: objective_function(config_dict=config, saved=saved),
}


@pytest.mark.parametrize("route", ROUTES)
def test_recboles_result_is_that_of_the_repaired_model(route, settings, fits, always_repaired):
    result = ROUTES[route](settings("NeuMF", **REPAIR), True)
    (trainer,) = fits
    assert trainer.state.progress.changed()
    kept = torch.load(final(), weights_only=False)["state_dict"]
    assert all(torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items())
    recbole_rawp.unregister()
    valid, test = scores(final())
    assert result["best_valid_result"] == valid and result["test_result"] == test
    assert result["best_valid_score"] == valid["mrr@10"]
    (stage_1,) = Path("theirs").glob("*-stage1.pth")
    assert scores(str(stage_1)) != [valid, test]


def test_without_a_checkpoint_it_is_the_same_model(settings, fits, always_repaired):
    with_file = objective_function(config_dict=settings("NeuMF", **REPAIR), saved=True)
    without = objective_function(config_dict=settings("NeuMF", **{**REPAIR, "checkpoint_dir": "none"}), saved=False)
    assert with_file == without and not list(Path("none").glob("*.pth"))


@pytest.mark.parametrize("algo", ["exhaustive", "bayes"])
def test_hyper_tuning_ranks_by_the_repaired_models(algo, settings, fits):
    pytest.importorskip("hyperopt")
    Path("fixed.yaml").write_text(yaml.safe_dump(settings("NeuMF", **REPAIR)))
    Path("gamma.hyper").write_text("rawp_radius choice [0.1,3.0]\n")
    files = {"params_file": "gamma.hyper", "fixed_config_file_list": ["fixed.yaml"]}
    tuning = HyperTuning(objective_function, algo=algo, max_evals=2, **files)
    tuning.run()
    scored = {str(t.settings.training.recipe.radius): t.best_valid_score for t in fits}
    assert all(trainer.state.progress is not None for trainer in fits) and len(fits) == 2
    assert tuning.best_score == max(scored.values()) == scored[str(tuning.best_params["rawp_radius"])]
    assert algo == "bayes" or len(scored) == 2


@pytest.mark.parametrize("name", ["LightGCN", "MLP"])
def test_a_checkpoint_reads_without_caches_in_a_process_that_only_applies_our_shims(name, settings, fits):
    target = {"rawp_target": "embeddings"} if name == "LightGCN" else {}
    ours = settings(name, **{**REPAIR, "epochs": 1, **target})
    if name == "MLP":  # ours, of six layers unless told otherwise
        ours |= {"mlp_hidden_size": [8, 4], "rawp_warmup_epochs": 0}
    result = run_recbole(config_dict=ours)
    (trainer,) = fits
    assert trainer.state.progress is not None
    content = torch.load(final(), weights_only=False)
    cached = [v for k, v in (content["other_parameter"] or {}).items() if k.startswith(overlay.CACHES)]
    assert cached == ([None, None] if name == "LightGCN" else [])
    content["config"].final_config_dict["single_spec"] = False  # as a distributed run leaves it
    torch.save(content, final())
    code = (
        "import recbole_rawp; recbole_rawp.compat.apply()\n"
        "from recbole.quick_start import load_data_and_model\n"
        "from recbole.trainer import Trainer\n"
        f"config, model, _, train, valid, test = load_data_and_model({final()!r})\n"
        "trainer = Trainer(config, model); trainer.eval_collector.data_collect(train)\n"
        "print([dict(trainer.evaluate(d, load_best_model=False)) for d in (valid, test)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.stdout.splitlines()[-1:] == [str([dict(result[k]) for k in ("best_valid_result", "test_result")])], (
        done.stderr
    )


def test_a_model_of_preloaded_vectors_trains_on_either_route(zoo_path, fits):
    config = zoo.cases()["KSR"].config | {"data_path": zoo_path, "defense": "awp", "attack": ["noise"]}
    theirs = run_recbole(config_dict=config)
    ours = recbole_rawp.run_recbole_rawp(config_dict=config)
    assert all(ours[key] == value for key, value in theirs.items()) and len(fits) == 2
    assert fits[0].model.relation_Matrix.dtype == torch.float32 and fits[0].objective is not None


@pytest.mark.parametrize("base", [recbole.trainer.trainer.Trainer, recbole.trainer.Trainer])
def test_an_extensions_trainer_is_hardened_whenever_and_wherever_it_was_made(settings, fits, monkeypatch, base):
    """RecBole looks for `<Model>Trainer` in `recbole.trainer`."""
    cls = type("NeuMFTrainer", (base,), {})
    monkeypatch.setattr(recbole.trainer, "NeuMFTrainer", cls, raising=False)
    config = settings("NeuMF", defense="awp", epochs=1)
    run_recbole(config_dict=config, saved=False)
    assert isinstance(fits[0], cls) and fits[0].lenient and fits[0].objective is not None
    recbole_rawp.unregister()
    run_recbole(config_dict=config, saved=False)
    assert len(fits) == 1 and get_trainer(None, "NeuMF") is cls


def test_a_checkpoint_of_ones_own_defense_needs_its_file_no_longer(settings, fits, monkeypatch):
    Path("mine.yaml").write_text("rawp_radius: 0.3\nrawp_mask_probability: 0.7\n")
    run_recbole(config_dict=settings("NeuMF", defense="mine.yaml", epochs=1, checkpoint_dir="theirs"))
    Path("mine.yaml").write_text("rawp_radius: 9.0\n")
    file = str(Path(final()).resolve())
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    given = {"attack": ["noise"], "attack_radii": [0.1], "rawp_output_dir": "out"}
    recbole_rawp.attack_checkpoint(file, config_dict=given)
    written = yaml.safe_load(Path("out/settings.yaml").read_text())
    assert (written["rawp_radius"], written["rawp_mask_probability"]) == (0.3, 0.7)

"""Is a trial scored under an attack that no trial changes, on valid data alone, and by its best weights?"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from recbole.trainer import HyperTuning

import recbole_rawp
from recbole_rawp import InputError, objective_function
from recbole_rawp.config.settings import Attack
from recbole_rawp.evaluation import robustness
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data
from recbole_rawp.jobs import trial
from recbole_rawp.threats.adversarial.perturbation import Perturbation
from recbole_rawp.training.stage2.valid_scores import ValidScores
from recbole_rawp.training.trainer import RAWPFTTrainer

ROOT = Path(__file__).parent.parent
KEYS = {"model", "best_valid_score", "valid_score_bigger", "best_valid_result", "test_result", "attack", "output_dir"}
SHORT = {"attack_batches": 2, "ft_radius": 0.3, "learning_rate": 0.05}


@pytest.fixture
def fixed(settings):
    """Write the settings that all trials share; return their file."""

    def write(model="NeuMF", **overrides):
        Path("fixed.yaml").write_text(yaml.safe_dump(settings(model, **SHORT | overrides)))
        return ["fixed.yaml"]

    return write


@pytest.mark.parametrize("defense", ["none", "awp", "rawp_ft_reference", "apr"])
def test_the_score_is_the_valid_metric_under_the_attack_of_the_fixed_settings(defense, fixed, monkeypatch):
    """The same number comes from `evaluation`, which knows nothing of `ValidScores`, on the model as it was left."""
    fitted = []
    fit = RAWPFTTrainer.fit
    monkeypatch.setattr(
        RAWPFTTrainer, "fit", lambda trainer, *data, **flags: fitted.append((trainer, data)) or fit(trainer, *data)
    )
    result = objective_function({"defense": defense}, fixed(ft_attack_steps=3))
    ((trainer, (train, valid)),) = fitted
    assert result.keys() == KEYS and result["attack"] == {"radius": 0.3, "steps": 3}
    threat = Perturbation(("apgd",), "hidden", (0.0, 0.3), losses=("training", "ranking"), iterations=3)
    loaders = Data(train, valid, valid)
    found = robustness.under_attack(trainer, loaders, Attack((threat,), batches=2), defense=defense).records
    at = {(r.loss, r.level, r.metric): r.value for r in found}
    score = result["best_valid_score"]  # of the change that the smooth form of the ranking tells to be the worse
    (loss, *_) = (name for name in ("training", "ranking") if at[name, 0.3, "mrr@10"] == score)
    assert score != at[loss, 0.0, "mrr@10"]
    assert result["best_valid_result"]["mrr@10"] == round(at[loss, 0.0, "mrr@10"], 4)
    assert result["best_valid_result"]["robust ndcg@10"] == round(at[loss, 0.3, "ndcg@10"], 4)
    assert (trainer.state.progress is not None) == (defense == "rawp_ft_reference")


def test_a_run_of_the_same_settings_has_the_same_clean_scores(settings):
    config = settings("NeuMF", **SHORT, defense="rawp_reference", epochs=3, attack=["noise"])
    tried, run = objective_function(config), recbole_rawp.run_recbole_rawp(config_dict=config)
    assert tried["test_result"] == run["test_result"]
    assert tried["best_valid_result"].items() >= run["best_valid_result"].items()


@pytest.mark.parametrize("asks", [True, False])
def test_ray_is_told_each_metric_by_its_name(asks, monkeypatch):
    """Ray's tune takes what a trial returns for its report, in which the metric of a scheduler has to be."""
    monkeypatch.setitem(sys.modules, "ray.tune", SimpleNamespace(is_session_enabled=lambda: asks))
    result = {"best_valid_score": 0.1, "best_valid_result": {"mrr@10": 0.4, "robust mrr@10": 0.1}}
    assert trial.with_metrics(result) == result | (result["best_valid_result"] if asks else {})


def test_the_best_epoch_is_scored_not_the_last(settings, monkeypatch):
    scores = iter([0.9, 0.2, 0.9])
    monkeypatch.setattr(RAWPFTTrainer, "_valid_epoch", lambda *_, **__: (next(scores), {"mrr@10": 0.0}))
    config = settings("NeuMF", **SHORT, defense="none")
    assert objective_function(config | {"epochs": 2}) == objective_function(config | {"epochs": 1})
    assert next(scores, None) is None


def attack_of(config_dict, files=()):
    fixed = trial.fixed_attack(RAWPConfig(config_dict=config_dict, config_file_list=files))
    return fixed.recipe.radius, fixed.recipe.relative, fixed.target, fixed.attack_steps


def test_no_trial_changes_the_attack_that_scores_it(fixed, monkeypatch):
    files = fixed("GRU4Rec", ft_radius=None)
    usual = (0.1, True, "hidden", 1)
    assert attack_of({}, files) == usual
    for options in (
        {"rawp_radius": 0.5},
        {"ft_radius": 0.5, "ft_attack_steps": 7, "rawp_target": "all"},
        {"defense": "apr"},
        {"defense": "none"},
    ):
        assert attack_of(options, files) == usual
    monkeypatch.setattr(sys, "argv", ["tune.py", "--ft_radius=0.2"])
    assert attack_of({"ft_radius": 0.5}, files) == (0.2, True, "hidden", 1)
    monkeypatch.setattr(sys, "argv", ["tune.py", "--model=NeuMF", "--dataset=toy"])
    assert attack_of({"rawp_radius": 5.0}) == usual


def test_settings_that_come_whole_in_the_dictionary_are_shared_ones(settings):
    assert attack_of(settings("NeuMF", ft_radius=0.7, ft_attack_steps=2)) == (0.7, True, "hidden", 2)
    assert attack_of(settings("GRU4Rec", defense="apr", ft_attack_steps=2)) == (0.5, False, "embeddings", 2)


def test_test_data_change_nothing_but_the_test_result(fixed, monkeypatch):
    first = objective_function({}, fixed())
    prepare = trial.prepare

    def without_test(config):
        data, network = prepare(config)
        return data._replace(test=None), network

    monkeypatch.setattr(trial, "prepare", without_test)
    second = objective_function({}, fixed())
    assert first["test_result"] and second["test_result"] is None
    assert {k: v for k, v in first.items() if k != "test_result"} == {
        k: v for k, v in second.items() if k != "test_result"
    }


@pytest.mark.parametrize("bigger", [True, False])
def test_a_score_of_nan_is_the_worst_there_is(bigger, settings, monkeypatch):
    metric = {} if bigger else {"valid_metric": "LogLoss"}
    monkeypatch.setattr(ValidScores, "robust_metrics", lambda scores: {scores.trainer.valid_metric: math.nan})
    result = objective_function(settings("DeepFM", **SHORT, **metric))
    assert result["valid_score_bigger"] is bigger
    assert result["best_valid_score"] == (-math.inf if bigger else math.inf)


def test_only_saved_leaves_a_model_behind(settings):
    config = settings("NeuMF", **SHORT, checkpoint_dir="saved")
    assert objective_function(config)["output_dir"] is None
    assert not list(Path().rglob("*.pth"))
    first, second = (objective_function(config, saved=True)["output_dir"] for _ in range(2))
    assert first != second and {path.name for path in Path(first).iterdir()} >= {"model.pth", "settings.yaml"}
    assert recbole_rawp.attack_checkpoint(f"{first}/model.pth", config_dict={"attack": ["noise"]})["records"]


@pytest.mark.parametrize(
    ("model", "overrides", "message"),
    [
        ("NeuMF", {"eval_args": {"split": {"RS": [0.9, 0, 0.1]}}}, "eval_args: the choice is made on valid data"),
        ("BPR", {"defense": "none"}, "rawp_target: target 'hidden': BPR has no hidden weight"),
        ("NeuMF", {"rawp_radios": 1}, "rawp_radios"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(model, overrides, message, settings, monkeypatch):
    monkeypatch.setattr(RAWPFTTrainer, "fit", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(InputError, match=message):
        objective_function(settings(model, **overrides))


@pytest.mark.parametrize("algo", ["exhaustive", "bayes"])
def test_hyper_tuning_takes_the_most_robust(algo, fixed):
    pytest.importorskip("hyperopt")
    Path("gamma.hyper").write_text("rawp_radius choice [0.1,3.0]\n")
    search = HyperTuning(
        objective_function, params_file="gamma.hyper", fixed_config_file_list=fixed(), algo=algo, max_evals=2
    )
    search.run()
    best = max(search.params2result.values(), key=lambda result: result["best_valid_score"])
    assert search.best_score == best["best_valid_score"]
    assert search.params2result[search.params2str(search.best_params)] is best
    search.export_result("result.txt")
    assert Path("result.txt").read_text().count("robust mrr@10 : ") == len(search.params2result)


def test_neither_ray_nor_recboles_quick_start_is_imported():
    code = (
        "import sys, recbole_rawp; from recbole.trainer import HyperTuning; recbole_rawp.objective_function\n"
        "print([name for name in ('ray', 'recbole.quick_start') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_weights_that_are_scored_are_those_of_the_checkpoint(settings, monkeypatch):
    seen = {}
    robust = ValidScores.robust_metrics

    def noted(scores):
        seen.update({name: value.clone() for name, value in scores.trainer.model.state_dict().items()})
        return robust(scores)

    monkeypatch.setattr(ValidScores, "robust_metrics", noted)
    result = objective_function(
        settings("NeuMF", **SHORT, defense="rawp_ft_reference", ft_learning_rate=0.1), saved=True
    )
    kept = torch.load(f"{result['output_dir']}/model.pth", weights_only=False)["state_dict"]
    assert seen.keys() == kept.keys() and all(torch.equal(seen[name], kept[name]) for name in kept)

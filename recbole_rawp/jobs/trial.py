"""Runs one trial of a search for settings: train with some, and see what an attack leaves on valid data."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.settings import FineTuning, complete
from recbole_rawp.errors import naming
from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models.classes import check_findable
from recbole_rawp.host.preparation import log_settings, prepare
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.trainers import check_choosable, check_weights, make_trainer, write_settings
from recbole_rawp.training.stage2.valid_scores import ValidScores


def objective_function(
    config_dict: Mapping[str, Any] | None = None,
    config_file_list: Sequence[str] | None = None,
    saved: bool = False,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train with these settings and score the best model under attack: a drop-in for RecBole's `objective_function`.

    The score is the valid metric at the worst change of the weights within `ft_radius`, as stage 2 measures it
    (`ValidScores`), for whatever defense. See `fixed_attack` for what a search cannot change about it.

    Args:
        config_dict: the settings of this trial, as `HyperTuning` passes them; or all settings.
        config_file_list: the settings that all trials share.
        saved: whether to keep the model, in a new folder of `runs`.
        argv: as RAWPConfig's.

    Returns:
        `model`; `best_valid_score`, that score, unrounded, infinitely bad where scores are NaN; `valid_score_bigger`;
        `best_valid_result`, every valid metric, clean and (its name after `robust`) under the attack; `test_result`,
        clean and never used; `attack`, the radius and steps of the attack; `output_dir`, None unless `saved`. In a
        trial of ray's tune each valid metric stands beside them, too.

    Raises:
        InputError: for anything in the input that cannot work, before any training.
    """
    config = RAWPConfig(config_file_list=config_file_list, config_dict=config_dict, argv=argv)
    check_findable(config.model_class)
    attack = fixed_attack(config)
    data, network = prepare(config)
    check_weights(config.settings, network)
    check_choosable(network, data)
    with naming("rawp_target"):
        perturbed_weights(network, attack.target)
    with trial_folder(config, saved) as folder:
        trainer = make_trainer(config, network, folder, data)
        log_settings(config)
        trainer.fit(data.train, data.valid, verbose=False)
        checkpoint.load_into(network, checkpoint.read(trainer.saved_model_file, config["device"]))
        scores = ValidScores(trainer, data.train, data.valid, perturbed_weights(network, attack.target), attack)
        clean, robust = scores.clean_metrics(), scores.robust_metrics()
        test_result = trainer.evaluate(data.test)
    score, bigger = robust[trainer.valid_metric], config["valid_metric_bigger"]
    return with_metrics(
        {
            "model": config["model"],
            "best_valid_score": (-math.inf if bigger else math.inf) if math.isnan(score) else score,
            "valid_score_bigger": bigger,
            "best_valid_result": rounded(clean | {f"robust {name}": value for name, value in robust.items()}, config),
            "test_result": test_result,
            "attack": {"radius": attack.recipe.radius, "steps": attack.attack_steps},
            "output_dir": str(folder) if saved else None,
        }
    )


def with_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a trial returns; to ray's tune, which asks for metrics by their names, with those of valid data."""
    tune = sys.modules.get("ray.tune")
    asked = tune is not None and getattr(tune, "is_session_enabled", lambda: True)()  # later rays cannot tell
    return {**result["best_valid_result"], **result} if asked else result


def fixed_attack(config: RAWPConfig) -> FineTuning:
    """Return the settings of the attack that scores: those that all trials of a search share.

    Else a trial with a smaller `rawp_radius`, or a defense of another target, would meet an easier attack. Shared are
    the files, the command line and the defaults; where `config_dict` names the model itself, it is shared, too.
    """
    shared: dict[str, Any] = config.file_config_dict | config.cmd_config_dict
    if "model" in config.variable_config_dict:
        shared = config.external_config_dict
    return complete({key: shared[key] for key in OPTIONS.keys() & shared.keys()}).fine_tuning


@contextmanager
def trial_folder(config: RAWPConfig, saved: bool) -> Iterator[Path]:
    """Give the checkpoints of a trial a folder, gone afterwards unless `saved`."""
    if saved:
        described = environment.describe(config["device"], config.argv)
        folder = output_folder.reserve(None, config["model"], config["dataset"], "trial", environment=described)
        write_settings([config], folder)
        yield folder
    else:
        with tempfile.TemporaryDirectory() as folder_name:
            yield Path(folder_name)


def rounded(metrics: Mapping[str, float], config: RAWPConfig) -> dict[str, float]:
    """Return the metrics with as many decimals as RecBole shows."""
    return {name: round(value, config["metric_decimal_place"]) for name, value in metrics.items()}

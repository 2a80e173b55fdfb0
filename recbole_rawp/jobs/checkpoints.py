"""Reads the settings of a checkpoint or of a run's folder; tells whether a model may know what are test data here."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_rawp.config.properties import defaults
from recbole_rawp.config.yaml_files import read_mapping
from recbole_rawp.core.restoring import SEED
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import FAILED, NOT_APPLICABLE, PASSED, Check
from recbole_rawp.host import environment, unpickling
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.data import fingerprint
from recbole_rawp.host.preparation import Data
from recbole_rawp.host.quirks import pretraining
from recbole_rawp.host.quirks.earlier_runs import begun_from
from recbole_rawp.host.ranking.measurement import UNROUNDED, measuring, ranked
from recbole_rawp.training.resume import BATCH, FREE

logger = logging.getLogger()
SAVED = ("dataset_save_path", "dataloaders_save_path")  # pickles of RecBole's, which may run code
SAVING = ("checkpoint_dir", "save_dataset", "save_dataloaders")  # where it looks for others


def settings_of(
    checkpoint: Mapping[str, Any],
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    ours: Mapping[str, Any] | None = None,
    without: str | None = None,
    argv: Sequence[str] | None = None,
) -> RAWPConfig:
    """Return the checkpoint's settings; `ours`, then files, dictionary and command line (`argv`) win over them.

    `model` is the class of its model, where Python does not find it by what the checkpoint says. Keys that begin with
    `without` are left out.

    Raises:
        InputError: if another model or dataset is asked for than the checkpoint holds.
    """
    theirs: Config = checkpoint["config"]
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "checkpoint.yaml")
        kept = {k: v for k, v in environment.settings(theirs).items() if not (without and k.startswith(without))}
        if guarded := unpickling.guards():
            leave_out_pickles(kept)
        kept |= begun_from(theirs, checkpoint["path"]) | dict(ours or {})
        first.write_text(environment.as_yaml(kept), encoding="utf-8")
        config = RAWPConfig(model, None, config_file_list, config_dict, argv=argv, begun=first)
        if guarded and "checkpoint_dir" not in config.external_config_dict:
            config["checkpoint_dir"] = folder  # which is gone when RecBole looks for saved data there
    for key in ("model", "dataset"):
        if config[key] != theirs[key]:
            raise InputError(
                f"{key}: {config[key]} is asked for, but the checkpoint holds {theirs[key]}. Leave --{key} out."
            )
    return config


def leave_out_pickles(settings: dict[str, Any]) -> None:
    """Take from a checkpoint's settings the data that RecBole saved: a pickle. Its files are read in their place."""
    for key in (*SAVED, *SAVING):
        file = settings.pop(key, None)
        if key in SAVED and file:
            logger.warning(
                f"{key}: the checkpoint names '{file}', a pickle, which may run code when loaded. The data's own files "
                f"are read. If you trust it, say --{key}={file}."
            )


def resplit(theirs: Config, config: Config) -> str:
    """Say how `config` splits the data otherwise than a checkpoint's own settings; empty if it splits them alike."""
    one, other = split(theirs), split(config)
    return "; ".join(
        f"{key}: {other.get(key)}, trained with {one.get(key)}" for key in one if one[key] != other.get(key)
    )


def split(config: Config) -> dict[str, Any]:
    """Return what decides which interactions are test data."""
    if files := config["benchmark_filename"]:
        return {"test file": files[-1]}
    found = {f"eval_args {key}": config["eval_args"].get(key) for key in ("split", "order", "group_by")}
    return {"test file": None, **found} | ({"seed": config["seed"]} if found["eval_args order"] == "RO" else {})


def unseen(content: Mapping[str, Any], config: RAWPConfig) -> list[Check]:
    """Return a failed check if a checkpoint's model may have been trained on what are test data here."""
    other = resplit(content["config"], config)
    return [Check(config.settings.training.defense, "test data were no training data", FAILED, other)] if other else []


def same_data(content: Mapping[str, Any], trainer: Any, data: Data) -> list[Check]:
    """Return a check of whether a checkpoint's model, which the trainer holds, knows these rows and ids from training.

    By the fingerprint in a checkpoint of ours; RecBole's own is asked to score on valid data what it scored then.
    """
    then, now = content["config"][fingerprint.KEY], fingerprint.of(data.train, data.valid)
    defense = trainer.defense
    if then and now:
        found = "; ".join(fingerprint.differences(then, now))
        return [Check(defense, "rows and ids are those of its training", FAILED if found else PASSED, found)]
    told = saved_score(content, trainer, data)
    name = "it scores on valid data what it scored when it was saved"
    if told is None:
        return [Check(defense, name, NOT_APPLICABLE, "")]
    found = scored_otherwise(trainer, data, told)
    return [Check(defense, name, FAILED if found else PASSED, found)]


def saved_score(content: Mapping[str, Any], trainer: Any, data: Data) -> float | None:
    """Return the valid score that a checkpoint tells of its model; None where valid data are not scored alike here."""
    score, theirs = content.get("best_valid_score"), content["config"]
    alike = all(
        theirs[key] == trainer.config[key] for key in ("valid_metric", "topk", "valid_neg_sample_args", "repeatable")
    )
    known = isinstance(score, float) and math.isfinite(score)
    return score if known and alike and data.valid and not pretraining(trainer.model) else None


def scored_otherwise(trainer: Any, data: Data, told: float) -> str:
    """Say that the model scores otherwise than it was told; empty if it does not.

    Where scores are drawn (`uniN`, or a model's own noise) it is scored three times, and may differ by four times
    their spread; with candidates that are drawn by a tenth, too: the score that was told is the best of many draws.
    """
    drawn = isinstance((trainer.config["valid_neg_sample_args"] or {}).get("sample_num"), int)  # else "none"
    share = 0.1 if drawn else 0.005
    near = 1.5 * 10.0 ** -(trainer.config["metric_decimal_place"] or UNROUNDED) + share * abs(told)
    metric, scores = trainer.valid_metric, list[float]()
    with measuring(trainer, data.train, data.valid):
        for seed in range(3):
            scores.append(ranked(trainer, data.valid, seed=SEED + seed).metrics[metric])
            if abs(scores[-1] - told) <= near + 4 * (max(scores) - min(scores)):
                return ""
    return f"{metric} {scores[0]:.4f} now, {told:.4f} then: other rows, ids, weights or settings"


def is_plain(content: Mapping[str, Any]) -> bool:
    """Tell whether a checkpoint's model was trained without a defense, as in RecBole's own run, which names none."""
    return content["config"]["defense"] in (None, "none")


def settings_in(folder: Path, *, argv: Sequence[str] | None = None) -> RAWPConfig:
    """Return the settings of the run in `folder`; the command line may only add what does not change its result.

    Candidates that settings.yaml places relative to the folder, as a comparison does, are found wherever that lies.

    Raises:
        InputError: if there are none, or the command line differs from them.
    """
    file = folder / "settings.yaml"
    if not file.is_file():
        raise InputError(f"resume: '{folder}' holds no settings.yaml. Name the output folder of a run.")
    if missing := {"model", "dataset"} - read_mapping(str(file), option="resume").keys():
        raise InputError(f"resume: '{file}' names no {' and no '.join(sorted(missing))}. Put back what the run wrote.")
    config = RAWPConfig(argv=argv, begun=file)
    written = {**defaults(config["defense"], config.begun), **config.begun}
    shared = str(written["attack_candidates"])
    if shared.startswith("../") and (folder / shared).is_file():
        config["attack_candidates"] = os.path.normpath(folder / shared)
    for key, value in config.cmd_config_dict.items():
        if key not in FREE and value != written.get(key):
            raise InputError(
                f"{key}: {value!r}, but the run in '{folder}' has {written.get(key)!r}. A run goes on as it "
                f"began: leave --{key} out, or start a new run."
            )
    if config[BATCH] != written.get(BATCH, config[BATCH]):
        logger.warning(
            f"{BATCH}: {config[BATCH]} from here on, {written[BATCH]} before. The result is the same but where scoring "
            "draws random numbers (uniN evaluation, models such as DiffRec), which come in another order."
        )
    return config

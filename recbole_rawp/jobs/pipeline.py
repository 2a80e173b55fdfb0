"""Runs the jobs on one model, step by step: train, go on, harden, rank, attack."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from recbole_rawp import files
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import FAILED, Check
from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.host.ranking.candidates import Candidates
from recbole_rawp.host.rehearsal import check_training
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.measuring import Findings, attack, check_attack, write
from recbole_rawp.jobs.trainers import (
    check_choosable,
    check_hardens,
    check_weights,
    fit,
    make_trainer,
    ready,
    write_settings,
)
from recbole_rawp.report.sections import radius_search, stage2
from recbole_rawp.training import resume
from recbole_rawp.training.radius.checks import check_searchable
from recbole_rawp.training.stage2 import criticality
from recbole_rawp.training.stage2.progress import summary

ORIGINAL = "original.pth"  # in a folder of `harden`: a copy of the checkpoint


def run_recbole_rawp(
    model: str | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    baseline: bool = False,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train a RecBole model with a defense, attack it on test data, and report: a drop-in for `run_recbole`.

    Args:
        model, dataset, config_file_list, config_dict, saved: as RecBole's `run_recbole` takes them. Options of ours
            are flat keys like RecBole's; `properties/rawp.yaml` lists them.
        baseline: also train the plain model, first, and put both in one table and picture.
        argv: the words that were typed, whose options win; None, as RecBole: those this process was started with.

    Returns:
        What `run_recbole` returns (`best_valid_score`, `valid_score_bigger`, `best_valid_result`, `test_result`), and
        `records` (`evaluation.records.Record`), `checks`, `table` and `overview` (Markdown; the latter where
        several kinds of attack were tried), `search` (for the radius, in words), `repair` (lines), `seconds` (of
        training) and `output_dir`.
        If a run with saved=True is killed, `continue_run` goes on with it.

    Raises:
        InputError: for anything in the input that cannot work, before any training.
    """
    config = RAWPConfig(model, dataset, config_file_list, config_dict, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    return _run(config, saved=saved, baseline=baseline)


def continue_run(folder: str, *, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Go on with the run in `folder` from where it was killed; the end is the same.

    `argv` and what is returned are those of `run_recbole_rawp`.

    Raises:
        InputError: if the folder holds no run, or options on the command line differ from the run's.
    """
    home = Path(folder).expanduser()
    config = resume.settings(home, argv=argv)
    with output_folder.held(home):
        file, place = home / "environment.txt", _place(config)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        files.write_text(file, f"{before}\ncontinued:\n{place}\n")
        stage_1 = home / ORIGINAL if (home / ORIGINAL).exists() else None
        return _run(config, baseline=(home / "baseline").is_dir(), folder=home, stage_1=stage_1)


def harden_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Repair the least robust module of a checkpoint's model: stage 2 alone. `argv`, result: as `run_recbole_rawp`.

    The file is not touched; the repaired model lies in a new folder as `model.pth`, beside a copy of the original. Only
    load checkpoints that you trust: a pickle can run code.

    Raises:
        InputError: for a file that is not a RecBole checkpoint or does not fit the data, and for options as above.
    """
    content = checkpoint.read(file)
    ours = _own(content) | {"ft_rounds": 1}
    config = checkpoint.settings(content, config_file_list, config_dict, ours=ours, argv=argv)
    if not config["ft_rounds"]:
        raise InputError("ft_rounds: 0 leaves nothing to do for harden. Leave it out.")
    config.settings.check_radius_known()
    output_folder.check_free(config["rawp_output_dir"])
    return _run(config, stage_1=Path(file).expanduser())


def rank_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Rank the modules of the model in a RecBole checkpoint by criticality.

    Returns:
        `rows` (see `criticality.rank`), `table` (Markdown) and `output_dir`, which holds criticality.csv and .png.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    config = checkpoint.settings(checkpoint.read(file), config_file_list, config_dict, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    check_weights(config.settings, network)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    folder = _reserve(config, "rank")
    trainer = make_trainer(config, network, folder, saved=False)
    ready(trainer, data)
    settings = config.settings.fine_tuning
    weights = perturbed_weights(network, settings.target)
    rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=settings.criticality)
    table = stage2.write_ranking(rows, folder, title=f"{config['model']} on {config['dataset']}")
    return {"rows": rows, "table": table, "output_dir": str(folder)}


def attack_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Attack the model in a RecBole checkpoint on test data, hardened or not, and report.

    The attack is that of the options given here, whatever the checkpoint's own run tried.

    Returns:
        `records` (`evaluation.records.Record`), `checks`, `table` and `overview` (Markdown) and `output_dir`.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    content = checkpoint.read(file)
    ours = _own(content)
    config = checkpoint.settings(content, config_file_list, config_dict, ours=ours, without="attack", argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    candidates = check_attack(config, network, data)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    folder = _reserve(config, "attack")
    write_settings([config], folder)
    trainer = make_trainer(config, network, folder, saved=False)
    ready(trainer, data)
    findings = Findings()
    attack(trainer, data, candidates, findings)
    findings.checks += unseen(content, config)
    dataset, again = data.test._dataset, f"attack {shlex.quote(str(Path(file).resolve()))}"
    return write(trainer, folder, findings, candidates, dataset=dataset, again=again)


def _run(
    config: RAWPConfig,
    *,
    saved: bool = True,
    baseline: bool = False,
    folder: Path | None = None,
    stage_1: Path | None = None,
) -> dict[str, Any]:
    """Train, attack and report.

    Args:
        config: the settings of the hardened model.
        saved: whether to save checkpoints.
        baseline: whether to train the plain model, too.
        folder: that of a run to go on with; None reserves a new one.
        stage_1: a checkpoint that takes the place of stage 1.
    """
    findings = Findings()
    runs = with_baseline(config) if baseline else [config]
    with ExitStack() as stack:
        for current in runs:
            data, network, candidates = _checked(config, current, stage_1, findings)
            if folder is None:  # nothing is written before the input is known to work
                folder = _begin(config, runs, stage_1, stack)
            trainer = make_trainer(current, network, folder if current is config else folder / "baseline", saved)
            if stage_1 is not None:
                trainer.skip_stage_1()
            result = fit(trainer, data, saved)
            attack(trainer, data, candidates, findings)
        assert folder is not None
        again = "train" if stage_1 is None else f"harden {ORIGINAL}"
        dataset = data.test._dataset
        result |= write(trainer, folder, findings, candidates, dataset=dataset, again=again)
        state = trainer.state
        result["seconds"] = state.seconds + (state.progress.seconds if state.progress else 0.0)
        result["search"] = radius_search.outcome(state.search, trainer.valid_metric) if state.search else ""
        return result | {"repair": summary(state.progress, trainer.valid_metric) if state.progress else []}


def _checked(
    config: RAWPConfig, current: RAWPConfig, stage_1: Path | None, findings: Findings
) -> tuple[Data, nn.Module, Candidates | None]:
    """Return data, model and attack candidates of the settings `current`, or raise InputError for what cannot work."""
    data, network = prepare(current)
    check_weights(config.settings, network)
    candidates = check_attack(config, network, data)
    check_training(current, network, data.train)
    if stage_1 is None:
        _check_stage_1(config, current, network, data)
    else:
        check_choosable(network, data)
        content = checkpoint.read(stage_1, config["device"])
        checkpoint.load_into(network, content)
        findings.checks += unseen(content, config)
    return data, network, candidates


def _begin(config: RAWPConfig, runs: Sequence[RAWPConfig], stage_1: Path | None, stack: ExitStack) -> Path:
    """Return a new folder, held by `stack`, with the settings of the runs and a copy of what takes stage 1's place."""
    folder = _reserve(config, config.settings.training.defense if stage_1 is None else "harden")
    stack.enter_context(output_folder.held(folder))
    if stage_1 is not None:
        files.copy(stage_1, folder / ORIGINAL)
    write_settings(runs, folder)
    return folder


def _check_stage_1(config: RAWPConfig, current: RAWPConfig, network: nn.Module, data: Data) -> None:
    """Raise InputError if stage 1 could not harden, or not find what the stage after it needs.

    Args:
        config: the settings of the hardened model.
        current: those of the model that is trained next, which may be the plain one.
    """
    check_searchable(config.settings.training, config, network, data.valid)
    check_hardens(config, network, data)
    if current["ft_rounds"] and (current["defense"] == "none" or not current["epochs"]):
        current.settings.check_radius_known()


def unseen(content: Mapping[str, Any], config: RAWPConfig) -> list[Check]:
    """Return a failed check if a checkpoint's model may have been trained on what are test data here."""
    other = checkpoint.resplit(content["config"], config)
    return [Check(config.settings.training.defense, "test data were no training data", FAILED, other)] if other else []


def with_baseline(config: RAWPConfig) -> list[RAWPConfig]:
    """Return the settings of the plain model, then those of the hardened one; one of them if they are the same."""
    return [config] if config["defense"] == "none" else [config.but(defense="none", ft_rounds=0), config]


def _own(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defense of a checkpoint that names none: RecBole's own run had none."""
    return {} if content["config"]["defense"] else {"defense": "none"}


def _reserve(config: RAWPConfig, last: str) -> Path:
    """Return the run's output folder."""
    wanted, names = config["rawp_output_dir"], (config["model"], config["dataset"], last)
    return output_folder.reserve(wanted, *names, environment=_place(config))


def _place(config: RAWPConfig) -> str:
    return environment.describe(config["device"], config.argv)

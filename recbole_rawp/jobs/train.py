"""Trains a model with a defense, attacks it and reports; goes on with a run that was killed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from recbole_rawp import files
from recbole_rawp.config.schema import AUTO
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models.classes import check_findable
from recbole_rawp.host.preparation import Data, log_settings, prepare
from recbole_rawp.host.quirks import pretraining
from recbole_rawp.host.ranking.candidates import Candidates
from recbole_rawp.host.rehearsal import check_training
from recbole_rawp.host.twins import twins_of
from recbole_rawp.host.unpickling import asked_to_trust
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import is_plain, same_data, settings_in, unseen
from recbole_rawp.jobs.measuring import Findings, attack, check_attack, write
from recbole_rawp.jobs.time_left import ATTACKS, TRAINING, TimeLeft
from recbole_rawp.jobs.trainers import (
    check_choosable,
    check_hardens,
    check_weights,
    fit,
    make_trainer,
    ready,
    write_settings,
)
from recbole_rawp.report.scores import label
from recbole_rawp.report.sections import radius_search
from recbole_rawp.training.radius.checks import check_searchable
from recbole_rawp.training.stage2.progress import summary
from recbole_rawp.training.trainer import RAWPFTTrainer

logger = logging.getLogger()

ORIGINAL = "original.pth"  # in a folder of `harden`: a copy of the checkpoint


def run_recbole_rawp(
    model: Any = None,
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
        model: as RecBole's Config takes it: a name or a class; or `package.module:Class`.
        dataset, config_file_list, config_dict, saved: as RecBole's `run_recbole` takes them. Options of ours are flat
            keys like RecBole's; `properties/rawp.yaml` lists them.
        baseline: also train the plain model, first, and put both in one table and picture.
        argv: the words that were typed, whose options win; None, as RecBole: those this process was started with.

    Returns:
        What `run_recbole` returns (`best_valid_score`, `valid_score_bigger`, `best_valid_result`, `test_result`), and
        `records` (`evaluation.records.Record`), `checks`, `answer` (lines), `table` and `overview` (all Markdown;
        the last where several kinds of attack were tried), `search` (for the radius, in words), `repair` (lines),
        `seconds` (of training) and `output_dir`.
        If a run with saved=True is killed, `continue_run` goes on with it.

    Raises:
        InputError: for anything in the input that cannot work, before any training.
    """
    config = RAWPConfig(model, dataset, config_file_list, config_dict, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    return run(config, saved=saved, baseline=baseline)


@asked_to_trust
def continue_run(folder: str, *, argv: Sequence[str] | None = None, trust_checkpoint: bool = False) -> dict[str, Any]:
    """Go on with the run in `folder` from where it was killed; the end is the same.

    `argv` and what is returned are those of `run_recbole_rawp`. With `trust_checkpoint` pickles there may run code.

    Raises:
        InputError: if the folder holds no run, its checkpoints are not what it wrote, or options on the command line
            differ from the run's.
    """
    home = Path(folder).expanduser()
    config = settings_in(home, argv=argv)
    with output_folder.held(home):
        for part in (home, home / "baseline"):
            checkpoint.check_folder(part)
        file, here = home / "environment.txt", output_folder.environment_of(config)
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        files.write_text(file, f"{before}\ncontinued:\n{here}\n")
        stage_1 = home / ORIGINAL if (home / ORIGINAL).exists() else None
        return run(config, baseline=(home / "baseline").is_dir(), folder=home, stage_1=stage_1)


def run(
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
        stage_1: a checkpoint that takes the place of stage 1; with `rawp_radius: auto`, that of the plain model.
    """
    if saved:
        check_findable(config.model_class)
    findings = Findings()
    runs = with_baseline(config) if baseline else [config]
    content = None if stage_1 is None else checkpoint.read(stage_1, config["device"])
    left = TimeLeft([label(own["defense"]) for own in runs], [2 if own["ft_rounds"] else 1 for own in runs])
    with ExitStack() as stack:
        for number, current in enumerate(runs, 1):
            data, network, candidates = _checked(config, current, content, findings)
            new = None
            if folder is None:  # nothing is written before the input is known to work
                new = folder = _begin(config, runs, stage_1, stack)
            with output_folder.withdrawn(new):
                home = folder if current is config else folder / "baseline"
                trainer = make_trainer(current, network, home, data, saved=saved, trained=content is not None)
            log_settings(current, like=runs[0] if number > 1 else None)
            if stage_1 is not None and content is not None:
                ready(trainer, data)
                findings.checks += same_data(content, trainer, data)
            if content is not None and current is not config:  # the plain model is the checkpoint's
                ready(trainer, data)
            else:
                if content is not None:
                    _begin_with(trainer, content)
                logger.info(left.at(number, TRAINING))
                result = fit(trainer, data, saved)
                left.took(number, TRAINING, trainer.state.seconds)
                if current is not config:
                    content = _plain_model(config, trainer)
            logger.info(left.at(number, ATTACKS))
            begun = time.monotonic()
            attack(trainer, data, candidates, findings, twins_of(folder, network, config))
            left.took(number, ATTACKS, time.monotonic() - begun)
            findings.checks += radius_search.checks(trainer)
        assert folder is not None
        again = "train" if stage_1 is None else f"harden {ORIGINAL}"
        dataset = data.test._dataset
        result |= write(trainer, folder, findings, candidates, dataset=dataset, again=again)
        return result | _told(trainer)


def _told(trainer: RAWPFTTrainer) -> dict[str, Any]:
    """Return how long a training took, and what search and repair came to, in words."""
    state, metric = trainer.state, trainer.valid_metric
    return {
        "seconds": state.seconds + (state.progress.seconds if state.progress else 0.0),
        "search": radius_search.outcome(state.search, metric) if state.search else "",
        "repair": summary(state.progress, metric) if state.progress else [],
    }


def _checked(
    config: RAWPConfig, current: RAWPConfig, content: Mapping[str, Any] | None, findings: Findings
) -> tuple[Data, nn.Module, Candidates | None]:
    """Return data, model and attack candidates of the settings `current`, or raise InputError for what cannot work."""
    data, network = prepare(current)
    check_weights(config.settings, network)
    candidates = check_attack(config, network, data)
    check_training(current, network, data.train)
    if content is None or goes_on(current, content):
        check_searchable(config.settings.training, config, network, data.valid)
        check_hardens(config, network, data)
    if content is not None:
        check_choosable(network, data)
        checkpoint.load_into(network, content)
        findings.checks += unseen(content, current)
    return data, network, candidates


def _begin(config: RAWPConfig, runs: Sequence[RAWPConfig], stage_1: Path | None, stack: ExitStack) -> Path:
    """Return a new folder, held by `stack`, with the settings of the runs and a copy of what takes stage 1's place."""
    folder = output_folder.claim(config, config.settings.training.defense if stage_1 is None else "harden")
    stack.enter_context(output_folder.held(folder))
    if stage_1 is not None:
        files.copy(stage_1, folder / ORIGINAL)
    write_settings(runs, folder)
    return folder


def goes_on(config: RAWPConfig, content: Mapping[str, Any]) -> bool:
    """Tell whether stage 1 goes on from the plain model of a checkpoint, by finding a radius: no stage 2 alone."""
    return is_plain(content) and config["defense"] != "none" and config["rawp_radius"] == AUTO


def _plain_model(config: RAWPConfig, trainer: RAWPFTTrainer) -> dict[str, Any] | None:
    """Return the checkpoint of the plain model that was just trained if the radius is to be found from it on."""
    file = Path(trainer.saved_model_file)
    if not file.exists() or pretraining(trainer.model):
        return None
    content = checkpoint.read(file, config["device"])
    return content if goes_on(config, content) else None


def _begin_with(trainer: RAWPFTTrainer, content: Mapping[str, Any]) -> None:
    """Let a checkpoint's model be the plain one from which a radius is found, or what stage 2 repairs."""
    if goes_on(trainer.config, content):
        trainer.take_plain_model(content)
    else:
        trainer.skip_stage_1()


def with_baseline(config: RAWPConfig) -> list[RAWPConfig]:
    """Return the settings of the plain model, then those of the hardened one; one of them if they are the same."""
    return [config] if config["defense"] == "none" else [config.but(defense="none", ft_rounds=0), config]

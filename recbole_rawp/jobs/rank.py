"""Ranks the modules of a checkpoint's model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from recbole_rawp.config.settings import Attack
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.records import FAILED, PASSED, Check
from recbole_rawp.evaluation.vulnerability import by_module
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, log_settings, prepare
from recbole_rawp.host.twins import other_weights
from recbole_rawp.host.unpickling import asked_to_trust
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import same_data, settings_of, unseen
from recbole_rawp.jobs.trainers import check_weights, make_trainer, ready
from recbole_rawp.report import vulnerability
from recbole_rawp.report.sections import stage2
from recbole_rawp.threats.setting import UNIVERSAL
from recbole_rawp.training.stage2 import criticality


@asked_to_trust
def rank_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    argv: Sequence[str] | None = None,
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """Rank the modules of the model in a RecBole checkpoint by criticality; arguments as `harden_checkpoint`.

    Returns:
        `rows` (see `criticality.rank`), `table` (Markdown), `checks` (whether these are the data of its training, and
        each rise is a number) and `output_dir`, which holds criticality.csv and .png. With `criticality_threats` also
        `vulnerability` (a frame, see `evaluation.vulnerability`) and its file.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    content = checkpoint.read(file)
    config = settings_of(content, config_file_list, config_dict, model=model, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    check_weights(config.settings, network)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    suite = checked(config, network, data)
    folder = output_folder.claim(config, "rank")
    with output_folder.withdrawn(folder):
        trainer = make_trainer(config, network, folder, data, trained=True)
        log_settings(config)
        ready(trainer, data)
        found = [*unseen(content, config), *same_data(content, trainer, data)]
        settings = config.settings.fine_tuning
        weights = perturbed_weights(network, settings.target)
        rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=settings.criticality)
    unknown = ", ".join(row.module for row in rows if not math.isfinite(row.rise))
    found.append(Check("", "the loss rises by a number", FAILED if unknown else PASSED, unknown))
    checks = [replace(check, defense=content["config"]["defense"] or "none") for check in found]
    table = stage2.write_ranking(rows, folder, title=f"{config['model']} on {config['dataset']}")
    result = {"rows": rows, "table": table, "checks": checks, "output_dir": str(folder)}
    if suite is None:
        return result
    frame = by_module(trainer, data, suite, rows, defense=trainer.defense)
    table = f"{table}\n\n{vulnerability.write(frame, folder, metric=trainer.valid_metric)}"
    return result | {"vulnerability": frame, "table": table}


def checked(config: RAWPConfig, network: nn.Module, data: Data) -> Attack | None:
    """Return what each module is to be tried with.

    Raises:
        InputError: if it changes no weights for all users, lacks a file, or there are no valid data to rank.
    """
    suite = config.settings.attack_on_modules
    if suite is None:
        return None
    if not data.valid:
        raise InputError("criticality_threats: it ranks valid data, and this split has none. Split some off.")
    for threat in suite.threats:
        if threat.scope != UNIVERSAL or threat.target == "activations":
            raise InputError(
                f"criticality_threats: {threat.name} changes no weights for all users. Leave it out of the suite."
            )
        if threat.checkpoint is not None:
            other_weights(network, config, threat.checkpoint)
    return suite

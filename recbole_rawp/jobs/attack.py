"""Attacks the model in a checkpoint."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import log_settings, prepare
from recbole_rawp.host.twins import twins_of
from recbole_rawp.host.unpickling import asked_to_trust
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import same_data, settings_of, unseen
from recbole_rawp.jobs.measuring import Findings, attack, check_attack, write
from recbole_rawp.jobs.trainers import make_trainer, ready, write_settings


@asked_to_trust
def attack_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    argv: Sequence[str] | None = None,
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """Attack the model in a RecBole checkpoint on test data, hardened or not, and report.

    The attack is that of the options given here, whatever the checkpoint's own run tried. A pickle can run code: what
    RecBole's checkpoints do not need is refused, unless `trust_checkpoint`. `model`: as for `harden_checkpoint`.

    Returns:
        `records` (`evaluation.records.Record`), `checks`, `answer` (lines), `table` and `overview` (all Markdown) and
        `output_dir`.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    content = checkpoint.read(file)
    ours = {} if content["config"]["defense"] else {"defense": "none"}  # RecBole's own run had none
    config = settings_of(content, config_file_list, config_dict, model=model, ours=ours, without="attack", argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    candidates = check_attack(config, network, data)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    folder = output_folder.claim(config, "attack")
    with output_folder.withdrawn(folder):
        write_settings([config], folder)
        trainer = make_trainer(config, network, folder, data, trained=True)
        log_settings(config)
        ready(trainer, data)
        findings = Findings()
        attack(trainer, data, candidates, findings, twins_of(Path(file).resolve().parent, network, config))
        findings.checks += [*unseen(content, config), *same_data(content, trainer, data)]
    dataset, again = data.test._dataset, f"attack {shlex.quote(str(Path(file).resolve()))}"
    return {"checkpoint": file} | write(trainer, folder, findings, candidates, dataset=dataset, again=again)

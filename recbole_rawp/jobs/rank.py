"""Ranks the modules of a checkpoint's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.unpickling import asked_to_trust
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import same_data, settings_of, unseen
from recbole_rawp.jobs.trainers import check_weights, make_trainer, ready
from recbole_rawp.report.sections import stage2
from recbole_rawp.training.stage2 import criticality


@asked_to_trust
def rank_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """Rank the modules of the model in a RecBole checkpoint by criticality; arguments as `harden_checkpoint`.

    Returns:
        `rows` (see `criticality.rank`), `table` (Markdown), `checks` (whether these are the data of its training) and
        `output_dir`, which holds criticality.csv and .png.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    content = checkpoint.read(file)
    config = settings_of(content, config_file_list, config_dict, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    check_weights(config.settings, network)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    folder = output_folder.claim(config, "rank")
    with output_folder.withdrawn(folder):
        trainer = make_trainer(config, network, folder, data, trained=True)
    ready(trainer, data)
    found = [*unseen(content, config), *same_data(content, trainer, data)]
    checks = [replace(check, defense=content["config"]["defense"] or "none") for check in found]
    settings = config.settings.fine_tuning
    weights = perturbed_weights(network, settings.target)
    rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=settings.criticality)
    table = stage2.write_ranking(rows, folder, title=f"{config['model']} on {config['dataset']}")
    return {"rows": rows, "table": table, "checks": checks, "output_dir": str(folder)}

"""Ranks the modules of a checkpoint's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import settings_of
from recbole_rawp.jobs.trainers import check_weights, make_trainer, ready
from recbole_rawp.report.sections import stage2
from recbole_rawp.training.stage2 import criticality


def rank_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Rank the modules of the model in a RecBole checkpoint by criticality.

    `model`: as for `harden_checkpoint`.

    Returns:
        `rows` (see `criticality.rank`), `table` (Markdown) and `output_dir`, which holds criticality.csv and .png.

    Raises:
        InputError: as `harden_checkpoint`.
    """
    config = settings_of(checkpoint.read(file), config_file_list, config_dict, model=model, argv=argv)
    output_folder.check_free(config["rawp_output_dir"])
    data, network = prepare(config)
    check_weights(config.settings, network)
    checkpoint.load_into(network, checkpoint.read(file, config["device"]))
    folder = output_folder.claim(config, "rank")
    trainer = make_trainer(config, network, folder, saved=False)
    ready(trainer, data)
    settings = config.settings.fine_tuning
    weights = perturbed_weights(network, settings.target)
    rows = criticality.rank(trainer, data.train, data.valid, weights=weights, settings=settings.criticality)
    table = stage2.write_ranking(rows, folder, title=f"{config['model']} on {config['dataset']}")
    return {"rows": rows, "table": table, "output_dir": str(folder)}

"""Hardens the model of a checkpoint: its least robust module alone, or all of it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp.config.schema import AUTO
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import own_defense, settings_of
from recbole_rawp.jobs.train import goes_on, run


def harden_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Repair the least robust module of a checkpoint's model: stage 2 alone. `argv`, result: as `run_recbole_rawp`.

    With `rawp_radius: auto` (and no `ft_radius`) a plain model's stage 1 comes first: training goes on from its
    weights, at radii that its clean valid score affords, as `rawp_ft` unless another defense is named.

    The file is not touched; the repaired model lies in a new folder as `model.pth`, beside a copy of the original. Only
    load checkpoints that you trust: a pickle can run code.

    Raises:
        InputError: for a file that is not a RecBole checkpoint or does not fit the data, and for options as above.
    """
    content = checkpoint.read(file)
    ours = own_defense(content) | {"ft_rounds": 1}
    plain = content["config"]["defense"] in (None, "none")
    config = settings_of(content, config_file_list, config_dict, ours=ours, argv=argv)
    if plain and config["rawp_radius"] == AUTO and not config["ft_radius"] and config["defense"] == "none":
        config = settings_of(content, config_file_list, config_dict, ours=ours | {"defense": "rawp_ft"}, argv=argv)
    hardens = plain and goes_on(config)
    if not config["ft_rounds"]:
        raise InputError("ft_rounds: 0 leaves nothing to do for harden. Leave it out.")
    if not hardens:
        config.settings.check_radius_known()
    output_folder.check_free(config["rawp_output_dir"])
    return run(config, baseline=hardens, stage_1=Path(file).expanduser())

"""Repairs the least robust module of a checkpoint's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import own_defense, settings_of
from recbole_rawp.jobs.train import run


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
    ours = own_defense(content) | {"ft_rounds": 1}
    config = settings_of(content, config_file_list, config_dict, ours=ours, argv=argv)
    if not config["ft_rounds"]:
        raise InputError("ft_rounds: 0 leaves nothing to do for harden. Leave it out.")
    config.settings.check_radius_known()
    output_folder.check_free(config["rawp_output_dir"])
    return run(config, stage_1=Path(file).expanduser())

"""Hardens the model of a checkpoint: its least robust module alone, or all of it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp.config.properties import name_of
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.unpickling import asked_to_trust
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import is_plain, settings_of
from recbole_rawp.jobs.train import goes_on, run


@asked_to_trust
def harden_checkpoint(
    file: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    *,
    model: Any = None,
    argv: Sequence[str] | None = None,
    trust_checkpoint: bool = False,
) -> dict[str, Any]:
    """Harden the model of a checkpoint, without training it anew. `argv`, result: as `run_recbole_rawp`.

    `model` is the class of the model, needed where Python does not find it by what the checkpoint says.
    A plain model goes through both stages of `rawp_ft`, or of the defense that is named: stage 1 goes on from its
    weights, at radii that its clean valid score affords. With a number for `rawp_radius`, and for a model that is
    hardened already, it is stage 2 alone.

    The file is not touched; the repaired model lies in a new folder as `model.pth`, beside a copy of the original. A
    pickle can run code: what RecBole's checkpoints do not need is refused, unless `trust_checkpoint`.

    Raises:
        InputError: for a file that is not a RecBole checkpoint or does not fit the data, and for options as above.
    """
    content = checkpoint.read(file)
    for defense in ({"defense": "rawp_ft"}, {"defense": "none"}) if is_plain(content) else ({},):
        ours = {"ft_rounds": 1} | defense
        config = settings_of(content, config_file_list, config_dict, model=model, ours=ours, argv=argv)
        if hardens := goes_on(config, content):
            break
    if is_plain(content) and config["rawp_perturbation"] != "ball":
        raise InputError(
            f"defense: {name_of(config['defense'])} trains from the start, and what harden adds to a plain model is "
            "adversarial training within a ball. Use recbole-rawp train, or leave --defense out."
        )
    if not config["ft_rounds"] and not hardens:
        raise InputError("ft_rounds: 0 leaves nothing to do for harden. Leave it out.")
    output_folder.check_free(config["rawp_output_dir"])
    return run(config, baseline=hardens, stage_1=Path(file).expanduser())

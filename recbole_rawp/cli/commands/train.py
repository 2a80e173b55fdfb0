"""`recbole-rawp train`: trains with a defense, repairs, attacks and reports; or goes on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command, config_files, trusts
from recbole_rawp.cli.printing import show
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], *, argv: Sequence[str]) -> int:
    """Train or go on, attack and report; see `USAGE`."""
    from recbole_rawp.jobs.train import continue_run, run_recbole_rawp

    if "resume" in options:
        return show(continue_run(str(options["resume"]), argv=argv, trust_checkpoint=trusts(options)))
    for key in ("model", "dataset"):
        if key not in options and "config_files" not in options:
            raise InputError(f"--{key}: missing. Name it, as in --model=NeuMF --dataset=ml-100k.")
    baseline = options.get("baseline", False)
    return show(run_recbole_rawp(config_file_list=config_files(options), baseline=baseline, argv=argv))


COMMAND = Command(run, own=("baseline", "resume", "trust_checkpoint"))

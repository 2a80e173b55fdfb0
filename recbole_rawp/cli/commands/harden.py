"""`recbole-rawp harden CHECKPOINT`: hardens a trained model; of one that is hardened, the least robust module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command, config_files, trusts
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Harden the model in a checkpoint, attack it before and after, and report."""
    from recbole_rawp.jobs.harden import harden_checkpoint

    return show(
        harden_checkpoint(
            checkpoint, config_file_list=config_files(options), argv=argv, trust_checkpoint=trusts(options)
        )
    )


COMMAND = Command(run, words=1, own=("trust_checkpoint",))

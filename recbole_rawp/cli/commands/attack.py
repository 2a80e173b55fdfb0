"""`recbole-rawp attack CHECKPOINT`: attacks a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import TRUST, Command, config_files, trusts
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Attack the model in a checkpoint, and report."""
    from recbole_rawp.jobs.attack import attack_checkpoint

    return show(
        attack_checkpoint(
            checkpoint, config_file_list=config_files(options), argv=argv, trust_checkpoint=trusts(options)
        )
    )


COMMAND = Command(
    run,
    help="attacks the model in a checkpoint on test data",
    examples=("attack saved/NeuMF.pth", "attack saved/NeuMF.pth --attack=production --attack_target=all"),
    words=1,
    metavar="CHECKPOINT",
    takes="a .pth file that RecBole saved, hardened or not",
    word="saved/NeuMF.pth",
    own=TRUST,
    sections=("Evaluation under attack", "Output"),
)

"""`recbole-rawp attack CHECKPOINT`: attacks a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import ON_A_CHECKPOINT, Command, of_checkpoint
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Attack the model in a checkpoint, and report."""
    from recbole_rawp.jobs.attack import attack_checkpoint

    return show(attack_checkpoint(checkpoint, **of_checkpoint(options, argv)))


COMMAND = Command(
    run,
    help="attacks the model in a checkpoint on test data",
    examples=("attack saved/NeuMF.pth", "attack saved/NeuMF.pth --attack=production --attack_target=all"),
    **ON_A_CHECKPOINT,
    sections=("Evaluation under attack", "Output"),
)

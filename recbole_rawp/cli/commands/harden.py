"""`recbole-rawp harden CHECKPOINT`: hardens a trained model; of one that is hardened, the least robust module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import EVERY, ON_A_CHECKPOINT, Command, of_checkpoint
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Harden the model in a checkpoint, attack it before and after, and report."""
    from recbole_rawp.jobs.harden import harden_checkpoint

    return show(harden_checkpoint(checkpoint, **of_checkpoint(options, argv)))


COMMAND = Command(
    run,
    help="hardens the model in a checkpoint, without training it first; the file is not touched",
    examples=("harden saved/NeuMF.pth", "harden saved/NeuMF.pth --ft_epochs=5"),
    more="A model that is hardened already has its least robust module repaired once more.",
    **ON_A_CHECKPOINT,
    sections=EVERY,
)

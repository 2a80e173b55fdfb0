"""`recbole-rawp harden CHECKPOINT`: hardens a trained model; of one that is hardened, the least robust module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import EVERY, TRUST, Command, config_files, trusts
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Harden the model in a checkpoint, attack it before and after, and report."""
    from recbole_rawp.jobs.harden import harden_checkpoint

    return show(
        harden_checkpoint(
            checkpoint, config_file_list=config_files(options), argv=argv, trust_checkpoint=trusts(options)
        )
    )


COMMAND = Command(
    run,
    help="hardens the model in a checkpoint, without training it first; the file is not touched",
    examples=("harden saved/NeuMF.pth", "harden saved/NeuMF.pth --ft_epochs=5"),
    more="A model that is hardened already has its least robust module repaired once more.",
    words=1,
    metavar="CHECKPOINT",
    takes="a .pth file that RecBole saved",
    word="saved/NeuMF.pth",
    own=TRUST,
    sections=EVERY,
)

"""`recbole-rawp rank CHECKPOINT`: ranks the modules of a model, least robust first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import TRUST, Command, config_files, trusts
from recbole_rawp.cli.printing import show_failed


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Print the modules of the model in a checkpoint, least robust first."""
    from recbole_rawp.jobs.rank import rank_checkpoint

    result = rank_checkpoint(
        checkpoint, config_file_list=config_files(options), argv=argv, trust_checkpoint=trusts(options)
    )
    folder = result["output_dir"]
    print(f"\n{result['table']}\n")
    show_failed(result["checks"])
    print(f"rows:    {folder}/criticality.csv\npicture: {folder}/criticality.png")
    return 0


COMMAND = Command(
    run,
    help="ranks the modules of the model in a checkpoint, least robust first",
    examples=("rank saved/NeuMF.pth", "rank saved/NeuMF.pth --criticality_threats=modules"),
    words=1,
    metavar="CHECKPOINT",
    takes="a .pth file that RecBole saved, hardened or not",
    word="saved/NeuMF.pth",
    own=TRUST,
    sections=("Criticality", "Output"),
)

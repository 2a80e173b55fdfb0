"""`recbole-rawp rank CHECKPOINT`: ranks the modules of a model, least robust first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import ON_A_CHECKPOINT, Command, of_checkpoint
from recbole_rawp.cli.printing import show_failed


def run(options: dict[str, Any], checkpoint: str, *, argv: Sequence[str]) -> int:
    """Print the modules of the model in a checkpoint, least robust first."""
    from recbole_rawp.jobs.rank import rank_checkpoint

    result = rank_checkpoint(checkpoint, **of_checkpoint(options, argv))
    folder = result["output_dir"]
    print(f"\n{result['table']}\n")
    show_failed(result["checks"])
    print(f"rows:    {folder}/criticality.csv\npicture: {folder}/criticality.png")
    return 0


COMMAND = Command(
    run,
    help="ranks the modules of the model in a checkpoint, least robust first",
    examples=("rank saved/NeuMF.pth", "rank saved/NeuMF.pth --criticality_threats=modules"),
    **ON_A_CHECKPOINT,
    sections=("Criticality", "Output"),
)

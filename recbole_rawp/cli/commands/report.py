"""`recbole-rawp report FOLDER...`: puts what runs found side by side."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from recbole_rawp.cli.command import Command, check_alone
from recbole_rawp.cli.printing import show


def run(options: dict[str, Any], *folders: str, argv: Sequence[str]) -> int:
    """Put what runs found side by side."""
    from recbole_rawp.jobs import report as reports

    check_alone(options, {"rawp_output_dir"}, "report takes folders and --rawp_output_dir")
    return show(reports.combine(matched(folders), options.get("rawp_output_dir")))


def matched(folders: Sequence[str]) -> list[str]:
    """Return the folders, in the place of a quoted pattern those that match it; one that matches none stays."""
    found = [[folder] if Path(folder).exists() else sorted(glob(folder, recursive=True)) for folder in folders]
    return [name for folder, names in zip(folders, found) for name in names or [folder]]


COMMAND = Command(
    run,
    help="puts what runs found side by side in one report",
    examples=(
        "report runs/NeuMF-ml-100k-none-20261124-120000 runs/NeuMF-ml-100k-rawp_ft-20261124-130000",
        "report 'runs/NeuMF-*'",
    ),
    words=None,
    metavar="FOLDER",
    takes="a run's folder",
    word="runs/NeuMF",
    general=(),
)

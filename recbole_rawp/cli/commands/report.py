"""`recbole-rawp report FOLDER...`: puts what runs found side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command
from recbole_rawp.cli.printing import show
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], *folders: str, argv: Sequence[str]) -> int:
    """Put what runs found side by side."""
    from recbole_rawp.jobs import report as reports

    for key in options.keys() - {"rawp_output_dir"}:
        raise InputError(f"--{key}: report takes folders and --rawp_output_dir alone. Leave it out.")
    return show(reports.combine(folders, options.get("rawp_output_dir")))


COMMAND = Command(run, words=None, takes="a run's folder", example="runs/NeuMF")

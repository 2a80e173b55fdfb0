"""Puts what several runs found into one report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from recbole_rawp.errors import InputError
from recbole_rawp.jobs import output_folder as folders_of_runs
from recbole_rawp.report import run_files
from recbole_rawp.report.comparison.merging import merge
from recbole_rawp.report.report import write_merged
from recbole_rawp.report.run_files import Run

logger = logging.getLogger()


def combine(folders: Sequence[str], output: str | None = None) -> dict[str, Any]:
    """Write one report on several runs, side by side, into a new folder.

    Args:
        folders: output folders of runs, or of earlier combined reports; others are left out, with a warning each.
        output: the new folder; None is `reports/TIME`.

    Returns:
        `records`, `checks`, `table` (Markdown), `verdict` and `output_dir`.

    Raises:
        InputError: for a folder that cannot be read, different headline metrics, or an output folder in use.
    """
    folders_of_runs.check_free(output)
    folders = run_files.with_records(folders)
    runs = with_values(run_files.read_runs(folders))
    together = merge(runs)
    home = folders_of_runs.reserve(
        output or folders_of_runs.unused("reports"), "", "", "", environment=together.facts["environment"]
    )
    return write_merged(home, together, folders)


def with_values(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that found a number; a line says of each other that it is left out.

    Raises:
        InputError: if there is none.
    """
    found = []
    for run in runs:
        if run.frame["value"].notna().any():
            found.append(run)
        else:
            logger.warning(f"report: '{run.name}' is left out: each of its values is NaN. Repeat that run.")
    if not found:
        raise InputError("report: each value of these runs is NaN. Repeat them, say with a smaller learning_rate.")
    return found

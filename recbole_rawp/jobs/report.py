"""Puts what several runs found into one report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.errors import InputError
from recbole_rawp.jobs import output_folder as folders_of_runs
from recbole_rawp.report import run_files
from recbole_rawp.report.comparison.merging import merge
from recbole_rawp.report.report import write_merged


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
    runs = run_files.read_runs(folders)
    for run in runs:
        if run.frame["value"].isna().all():
            raise InputError(f"report: every value of '{run.name}' is NaN. Repeat that run, or leave it out.")
    together = merge(runs)
    home = folders_of_runs.reserve(
        output or folders_of_runs.unused("reports"), "", "", "", environment=together.facts["environment"]
    )
    return write_merged(home, together, folders)

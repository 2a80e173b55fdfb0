"""Keeps the rows of a comparison's runs in its folder, whichever process has done them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp import files
from recbole_rawp.errors import InputError
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.comparison.grid import Cell
from recbole_rawp.report.comparison.summary import FAILED, FINISHED

ROWS = "runs.csv"

Rows = dict[str, dict[str, Any]]  # by the run's name


def described(cell: Cell) -> dict[str, Any]:
    """Return the columns that every row begins with."""
    own = {"model": cell.model, "dataset": cell.dataset, "defense": cell.defense, "seed": cell.seed}
    return own | {"folder": cell.name, "status": "", "reason": ""}


def failure(cell: Cell, reason: str) -> dict[str, Any]:
    """Return the row of a run that failed."""
    return described(cell) | {"status": FAILED, "reason": reason}


def finished(row: Mapping[str, Any] | None, home: Path) -> bool:
    """Tell whether a run is finished and what it found is there."""
    return row is not None and row["status"] == FINISHED and (home / row["folder"] / "records.csv").exists()


def put(row: dict[str, Any], home: Path) -> None:
    """Write a run's row beside those of the others, which other processes may have written meanwhile."""
    with output_folder.held(home, patience=output_folder.FOREVER):
        rows = read_rows(home) | {row["folder"]: row}
        files.whole(home / ROWS, lambda path: pd.DataFrame(list(rows.values())).to_csv(path, index=False))


def read_rows(home: Path) -> Rows:
    """Return the rows that were written, by the names of their runs.

    Raises:
        InputError: if they cannot be read, or are no rows of runs.
    """
    file = home / ROWS
    if not file.exists():
        return {}
    words = ("model", "dataset", "defense", "folder", "status", "reason", "metric", "attacked")
    types = dict.fromkeys(words, str)
    try:
        frame = pd.read_csv(file, dtype=types, float_precision="round_trip", keep_default_na=False, na_values=[""])
        known = frame.fillna({word: "" for word in words if word in frame})
        rows = {row["folder"]: row for row in known.to_dict("records")}
        if len(rows) < len(known) or not known["status"].isin((FINISHED, FAILED)).all():
            raise ValueError("a run is there twice, or neither finished nor failed")
        if (known["status"] == FINISHED).any():  # where all failed, there is no such column
            known.loc[known["status"] == FINISHED, "seconds"].astype(float)
    except Exception as error:  # what a damaged file raises is anybody's guess
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"resume: cannot read '{file}': {reason}. Remove it: what was trained is kept, and attacked again."
        ) from error
    return rows

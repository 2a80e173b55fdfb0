"""Compares defenses over models, data sets and seeds: a grid of runs that goes on after a kill."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_rawp import files
from recbole_rawp.config import command_line
from recbole_rawp.config.command_line import GRID
from recbole_rawp.errors import Busy, InputError
from recbole_rawp.host import environment
from recbole_rawp.jobs import output_folder, train
from recbole_rawp.jobs.comparison import begun, feasibility, grid, unchanged
from recbole_rawp.jobs.comparison.feasibility import Plan
from recbole_rawp.jobs.comparison.grid import Cell
from recbole_rawp.jobs.comparison.rows import Rows, described, failure, finished, put, read_rows
from recbole_rawp.jobs.comparison.workers import TRACE, check_idle, others, time_there, tried_since
from recbole_rawp.report.comparison import run_rows, summary
from recbole_rawp.report.comparison.summary import FAILED, FINISHED
from recbole_rawp.training.resume import FREE

PAUSE = 5.0  # seconds between two looks at runs that others are at
OURS = (*GRID, "model", "dataset", "defense", "config_files", "resume", "workers", "rawp_output_dir")  # not of a run


def compare(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    defenses: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    folder: str | None = None,
    *,
    workers: int = 1,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train every defense on every model and data set from every seed, attack all alike, and report.

    Args:
        models, datasets, defenses, seeds: see `grid.read`.
        config_file_list: as RecBole's; `NAME:FILE` is for the runs of that model, data set or defense alone.
        config_dict: options of all runs. Those on the command line win, as everywhere.
        folder: of the comparison, new, empty, or one to go on with: then what is not named is as it was, finished
            runs are kept, one that was killed goes on, one that failed is tried again. None: comparisons/TIME.
        workers: how many processes train and attack; 0: none, the folder is made ready alone. Others may join from
            elsewhere, with the folder alone.
        argv: the words that were typed; None, as RecBole: those this process was started with.

    Returns:
        `rows` (one dictionary per run), `table` (Markdown), `verdict`, `failed` (name -> reason) and `output_dir`;
        `output_dir` alone if there are no workers.

    Raises:
        InputError: for what cannot work, before the first training; or if a run that was begun had other settings.
    """
    argv = command_line.words(argv)
    words, _ = command_line.read(argv)
    asked = {**(config_dict or {}), **{key: value for key, value in words.items() if key not in OURS}}
    before = begun.read_grid(Path(folder).expanduser()) if folder else {}
    wanted = grid.read(
        before.get("models") if models is None else models,
        before.get("datasets") if datasets is None else datasets,
        before.get("defenses") if defenses is None else defenses,
        before.get("seeds") if seeds is None else seeds,
        before.get("config_files", ()) if config_file_list is None else config_file_list,
        {**before.get("options", {}), **asked},
    )
    begun.check_grown(wanted, before)
    home = Path(folder or output_folder.unused("comparisons")).expanduser()
    made = feasibility.make(wanted)
    environment_text = environment.describe(next(iter(made.configs.values()))["device"], argv)
    if not before:
        home = output_folder.reserve(str(home), "", "", "", environment=environment_text)
    with output_folder.resumable(home, "compare"):
        with output_folder.held(home, patience=output_folder.FOREVER):
            begun.begin(made, wanted, home, environment_text)
        if not workers:
            return {"output_dir": str(home)}
        again = [f"--{key}={words[key]}" for key in FREE if key in words and key not in OURS]
        with others(workers - 1, home, again):
            rows = run_all(made, home, again)
        with output_folder.held(home, patience=output_folder.FOREVER):
            return summary.write(home, list(rows.values()), made.notes)


def join(folder: str, words: Sequence[str]) -> None:
    """Do runs of the comparison in a folder until none is left; `words` are options that change no result."""
    home = Path(folder)
    before = begun.read_grid(home)
    made = feasibility.make(grid.read(*(before[key] for key in (*GRID, "config_files", "options"))))
    with output_folder.resumable(home, "compare"):
        run_all(made, home, words)


def run_all(made: Plan, home: Path, words: Sequence[str]) -> Rows:
    """See to it that each run ends, or fails; return all rows in order. What others are at is waited for."""
    since = time_there(home)
    cells = list(made.configs)
    left = dict(enumerate(cells, 1))
    waiting = False
    while left:
        busy = []
        for number, cell in list(left.items()):
            name = f"[{number}/{len(cells)}] {cell.name}"
            try:
                done = attend(cell, made, home, words, since, name)
            except Busy:
                busy.append(cell.name)
                continue
            del left[number]
            waiting = False
            print(f"{name}: {done}", flush=True)
        if left and not waiting:
            print(f"Waits for {', '.join(busy)}: another process is at work there.", flush=True)
        waiting = bool(left)
        time.sleep(PAUSE * waiting)
    rows = read_rows(home)
    return {cell.name: rows[cell.name] for cell in cells}


def attend(cell: Cell, made: Plan, home: Path, words: Sequence[str], since: float, name: str) -> str:
    """Do a run that is neither finished nor failed after `since`; write its row, and return what became of it.

    Raises:
        Busy: if another process is at it, or at the plain run that it goes on from.
    """
    rows, folder = read_rows(home), home / cell.name
    row = rows.get(cell.name)
    if finished(row, home):
        return "finished before"
    if row is not None and tried_since(folder, since):
        return f"{FAILED} in another process: {row['reason']}"
    if reason := made.impossible.get(cell):
        row = failure(cell, reason)
    else:
        plain = plain_run(cell, made, home)
        if plain and not finished(rows.get(plain.name), home):
            check_idle(home / plain.name)
            plain = None
        check_idle(folder)
        print(f"{name}: begins" + (f", from the model of {plain.name}" if plain else ""), flush=True)
        if plain:
            begin_from(home / plain.name, folder)
        row = run(cell, home, words)
        if plain and row["status"] == FINISHED:
            row["seconds"] += float(rows[plain.name]["seconds"])
    put(row, home)
    return f"{row['status']}" + f": {row['reason']}" * (row["status"] == FAILED)


def plain_run(cell: Cell, made: Plan, home: Path) -> Cell | None:
    """Return the run whose model is the plain one of a run that finds its radius; None if there is none.

    It has the same settings of RecBole's, from the same seed; a run that began otherwise goes on as it began.
    """
    plain, folder = replace(cell, defense="none"), home / cell.name
    alone = (folder / "resume.pt").exists() and not (folder / train.ORIGINAL).exists()
    if alone or plain not in made.configs or made.configs[cell].settings.training.clean_budget is None:
        return None
    theirs, own = (unchanged.of_recbole(made.configs[one]) for one in (plain, cell))
    return plain if theirs == own and plain != cell else None


def begin_from(plain: Path, folder: Path) -> None:
    """Let a run's stage 1 go on from the model of a plain run, unless it does already."""
    if not (folder / train.ORIGINAL).exists():
        files.copy(plain / "model.pth", folder / train.ORIGINAL)


def run(cell: Cell, home: Path, words: Sequence[str]) -> dict[str, Any]:
    """Begin a run or go on with it; return its row. An error is a row, too; only a kill ends the comparison.

    Raises:
        Busy: if another process is at it.
    """
    folder = home / cell.name
    trace = folder / TRACE
    try:
        result = train.continue_run(str(folder), argv=["train", f"--resume={folder}", *words])
        trace.unlink(missing_ok=True)
        return described(cell) | run_rows.measure(folder) | {"status": FINISHED, "seconds": result["seconds"]}
    except Busy:
        raise
    except InputError as error:
        files.write_text(trace, f"{error}\n")
        return failure(cell, str(error))
    except Exception as error:  # one run's defect must not cost the others
        files.write_text(trace, traceback.format_exc())
        return failure(cell, f"{type(error).__name__}: {' '.join(str(error).split())} (see {trace})")

"""Does the runs of a comparison, beside any number of other processes and machines at work in the same folder.

Each run is held by a lock of the file system, which its death frees: then another process goes on with the run.
"""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_rawp import files
from recbole_rawp.errors import Busy, InputError
from recbole_rawp.jobs import output_folder, train
from recbole_rawp.jobs.comparison import unchanged
from recbole_rawp.jobs.comparison.feasibility import Plan
from recbole_rawp.jobs.comparison.grid import Cell
from recbole_rawp.jobs.comparison.rows import Rows, described, failure, finished, put, read_rows
from recbole_rawp.report.comparison import run_rows
from recbole_rawp.report.comparison.summary import FAILED, FINISHED

TRACE = "failure.txt"  # in the folder of a run that failed
PAUSE = 5.0  # seconds between two looks at runs that others are at
JOIN = "import sys; from recbole_rawp.jobs.comparison.compare import join; join(sys.argv[1], sys.argv[2:])"


def run_all(made: Plan, home: Path, words: Sequence[str]) -> Rows:
    """See to it that each run ends, or fails; return all rows in order. What others are at is waited for."""
    begun = time_there(home)
    cells = list(made.configs)
    left = dict(enumerate(cells, 1))
    waiting = False
    while left:
        busy = []
        for number, cell in list(left.items()):
            name = f"[{number}/{len(cells)}] {cell.name}"
            try:
                done = attend(cell, made, home, words, begun, name)
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


def attend(cell: Cell, made: Plan, home: Path, words: Sequence[str], begun: float, name: str) -> str:
    """Do a run that is neither finished nor failed since `begun`; write its row, and return what became of it.

    Raises:
        Busy: if another process is at it, or at the plain run that it goes on from.
    """
    rows, folder = read_rows(home), home / cell.name
    row = rows.get(cell.name)
    if finished(row, home):
        return "finished before"
    if row is not None and tried_since(folder, begun):
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
    begun = (folder / "resume.pt").exists() and not (folder / train.ORIGINAL).exists()
    if begun or plain not in made.configs or made.configs[cell].settings.training.clean_budget is None:
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


def check_idle(folder: Path) -> None:
    """Raise Busy if another process is at work in the folder of a run."""
    if folder.is_dir():
        with output_folder.held(folder):
            pass


def time_there(home: Path) -> float:
    """Return what time it is by the clock of the folder's file system."""
    mark = home / ".lock"
    mark.touch()
    return mark.stat().st_mtime


def tried_since(folder: Path, begun: float) -> bool:
    """Tell whether a run has failed since then."""
    trace = folder / TRACE
    return trace.exists() and trace.stat().st_mtime >= begun


@contextmanager
def others(count: int, home: Path, words: Sequence[str]) -> Iterator[None]:
    """Let as many more processes work on the comparison while the code inside does; they write `worker-N.log`.

    They end by themselves when nothing is left, and with the code inside if that is interrupted.
    """
    working = []
    for number in range(2, count + 2):
        with open(home / f"worker-{number}.log", "w", encoding="utf-8") as log:
            line = [sys.executable, "-c", JOIN, str(home), *words]
            working.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))
    try:
        yield
        for process in working:
            process.wait()
    finally:
        for process in working:
            process.terminate()
            process.wait()

"""Lets other processes, here or on other machines, work on a comparison in the same folder.

Each run is held by a lock of the file system, which its death frees: then another process goes on with the run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recbole_rawp.jobs import output_folder

TRACE = "failure.txt"  # in the folder of a run that failed


@contextmanager
def others(count: int, home: Path, words: Sequence[str]) -> Iterator[None]:
    """Let as many more processes work on the comparison while the code inside does; they write `worker-N.log`.

    They end by themselves when nothing is left, and with the code inside if that is interrupted.
    """
    line = f"from recbole_rawp.jobs.comparison.compare import join; join({str(home)!r}, {list(words)!r})"
    working = []
    for number in range(2, count + 2):
        with open(home / f"worker-{number}.log", "a", encoding="utf-8") as log:
            command = [sys.executable, "-c", line]
            working.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))
    try:
        yield
        for process in working:
            process.wait()
    finally:
        for process in working:
            process.terminate()
            process.wait()


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

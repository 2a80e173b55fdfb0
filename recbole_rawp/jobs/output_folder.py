"""Gives a run's output one folder of its own, and keeps other processes out of it; nothing is overwritten."""

from __future__ import annotations

import errno
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_rawp.config.checks import check_one_process
from recbole_rawp.errors import Busy, InputError, Interrupted
from recbole_rawp.host import environment
from recbole_rawp.host.config import RAWPConfig

FOREVER = -1.0  # seconds that one waits for a folder, as filelock has it
WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems answer that have none


def reserve(wanted: str | None, model: str, dataset: str, defense: str, *, environment: str) -> Path:
    """Claim the run's output folder, `wanted` or `runs/MODEL-DATASET-DEFENSE-TIME`, by writing environment.txt into it.

    Raises:
        InputError: if `wanted` cannot be created or holds something.
    """
    check_free(wanted)
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path(wanted).expanduser() if wanted else Path("runs", f"{model}-{dataset}-{defense}-{stamp}")
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=bool(wanted))
            with open(folder / "environment.txt", "x", encoding="utf-8") as file:  # one of two rivals fails here
                file.write(environment + "\n")
            return folder
        except FileExistsError as error:
            if wanted:
                raise in_use(wanted) from error
        except OSError as error:
            raise unwritable(folder, error) from error
    raise AssertionError("unreachable")


def check_free(wanted: str | None) -> None:
    """Raise InputError if the output folder `wanted` exists and is not an empty folder, or under torchrun."""
    check_one_process()
    path = Path(wanted).expanduser() if wanted else None
    if path and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise in_use(str(wanted))


def in_use(wanted: str) -> InputError:
    """Return the error for an output folder that holds something."""
    return InputError(f"rawp_output_dir: '{wanted}' is in use. Name a new or empty folder; nothing is overwritten.")


def unwritable(folder: Path, error: OSError) -> InputError:
    """Return the error for an output folder in which nothing can be written."""
    return InputError(f"rawp_output_dir: cannot write into '{folder}': {error.strerror}. Name another folder.")


@contextmanager
def held(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes out of an output folder, until this one leaves it or is killed; wait `patience` seconds.

    Raises:
        Busy: if another one is at work in it.
        InputError: if nothing can be written, or torchrun started several.
        Interrupted: at Ctrl-C, see `resumable`.
    """
    check_one_process()
    lock = FileLock(folder / ".lock", timeout=patience)
    try:
        lock.acquire()
    except Timeout as error:
        raise Busy(
            f"rawp_output_dir: another process is at work in '{folder}'. Wait for its end, or name another folder."
        ) from error
    except NotImplementedError:  # what filelock 3 raises where there are no locks
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise unwritable(folder, error) from error
    try:
        with resumable(folder):
            yield
    finally:
        lock.release()


@contextmanager
def resumable(folder: Path, command: str = "train") -> Iterator[None]:
    """Raise Interrupted at Ctrl-C, with the `command` that goes on in the folder, if something was written there."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if not folder.exists():  # it was withdrawn
            raise
        raise Interrupted(f"recbole-rawp {command} --resume={shlex.quote(str(folder))}") from stop


@contextmanager
def withdrawn(folder: Path | None) -> Iterator[None]:
    """Leave no new folder of output behind if the code inside ends in an error: the corrected command may name it."""
    try:
        yield
    except BaseException:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                Path("runs").rmdir()
        raise


def unused(parent: str) -> str:
    """Return the name of a folder in `parent` that does not exist."""
    base = Path(parent, datetime.now().strftime("%Y%m%d-%H%M%S"))
    names = (base if number == 1 else base.with_name(f"{base.name}-{number}") for number in count(1))
    return str(next(name for name in names if not name.exists()))


def claim(config: RAWPConfig, last: str) -> Path:
    """Return a new output folder for a run of `config`; its name ends with `last`, where none is set."""
    wanted, names = config["rawp_output_dir"], (config["model"], config["dataset"], last)
    return reserve(wanted, *names, environment=environment_of(config))


def environment_of(config: RAWPConfig) -> str:
    """Return where and with what a run of `config` is run, a line each."""
    return environment.describe(config["device"], config.argv)

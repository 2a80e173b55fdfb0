"""Writes the numbers in a run's folder, on which a report rests, and reads them back."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import users as per_user
from recbole_rawp.evaluation.records import Check
from recbole_rawp.evaluation.users import Users
from recbole_rawp.files import whole, write_text
from recbole_rawp.report import formats

logger = logging.getLogger()


@dataclass(frozen=True)
class Run:
    """What was measured, and how.

    Attributes:
        name: of its folder.
        frame: the records, see `evaluation.records.Record`.
        checks: the self-checks.
        users: scope -> per-user results; `universal-2` and so on where several runs have different users.
        facts: metric, bigger, settings, notes, environment; empty for a folder without report.json.
        candidates: a digest of the items that were ranked; empty where all were, or a folder does not tell.
    """

    name: str
    frame: pd.DataFrame
    checks: list[Check]
    users: Mapping[str, Users]
    facts: dict[str, Any]
    candidates: str = ""

    @property
    def metric(self) -> str:
        """Return the headline metric, as RecBole names it in results (`ndcg@10`)."""
        return str(self.facts["metric"])

    @property
    def bigger(self) -> bool:
        """Return whether more of it is better (`valid_metric_bigger`)."""
        return bool(self.facts["bigger"])


def write_run(folder: Path, run: Run) -> None:
    """Write records.csv, records.json, users.npz, checks.json and report.json into `folder`."""
    whole(folder / "records.csv", lambda path: run.frame.to_csv(path, index=False))
    write_json(folder / "records.json", run.frame.to_dict("records"))
    if run.users:
        per_user.write_users(folder / "users.npz", run.users)
    write_json(folder / "checks.json", [asdict(check) for check in run.checks])
    write_json(folder / "report.json", run.facts | {"k": next((users.k for users in run.users.values()), None)})


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every reader takes: NaN and infinity become null."""
    text = json.dumps(value, default=str, indent=1)
    strict = json.loads(text, parse_constant=lambda constant: None)
    write_text(path, json.dumps(strict, indent=1) + "\n")


def with_records(folders: Sequence[str]) -> list[str]:
    """Return those of some folders that hold records; a line says of each other that it is left out.

    Raises:
        InputError: if there is no such folder, or none with records.
    """
    found = []
    for folder in folders:
        home = Path(folder).expanduser()
        if not home.exists():
            raise InputError(f"report: there is no folder '{folder}'. Name the output folder of a finished run.")
        if (home / "records.csv").is_file():
            found.append(folder)
        else:
            again = f"; recbole-rawp train --resume={shlex.quote(folder)} goes on" * (home / "resume.pt").exists()
            logger.warning(f"report: '{folder}' is left out: it holds no records.csv{again}.")
    if not found:
        raise InputError("report: none of the folders holds records.csv. Name the output folder of a finished run.")
    return found


def read_run(folder: str | Path, name: str | None = None) -> Run:
    """Read a run's folder, as `name`; everything but records.csv may be missing.

    Raises:
        InputError: for a folder without records.csv, or with a file that cannot be read, naming it.
    """
    home = Path(folder).expanduser()
    frame = _read(home / "records.csv", formats.read_records, None)

    def read_users(path: Path) -> dict[str, Users]:
        """Read what the records' means are of."""
        users = per_user.read_users(path)
        formats.check_same(frame, users)
        return users

    return Run(
        name or str(folder),
        frame,
        _read(home / "checks.json", formats.read_checks, []),
        _read(home / "users.npz", read_users, {}),
        _read(home / "report.json", formats.read_facts, {}),
        _read(home / "candidates.npz", formats.digest, ""),
    )


def _read(path: Path, read: Any, default: Any) -> Any:
    """Return `read(path)`, or the default if there is no such file; what cannot be read is the user's to mend."""
    try:
        return read(path) if path.exists() else default
    except Exception as error:  # what a damaged file raises is anybody's guess
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"report: cannot read '{path}': {reason}. Repeat that run, or leave it out.") from error


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read several folders, each once; runs are named by their folders, with the path where names recur.

    Raises:
        InputError: as `read_run`.
    """
    paths = {Path(folder).expanduser().resolve(): folder for folder in reversed(folders)}
    names = [path.name for path in paths]
    return [read_run(f, path.name if names.count(path.name) == 1 else f) for path, f in reversed(paths.items())]

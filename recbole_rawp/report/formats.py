"""Reads the files of a run's folder, each by the one reader of its format, which says what is wrong with a file.

Raises, everywhere: ValueError, or what the libraries that decode a damaged file raise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_rawp.evaluation.records import COLUMNS, FAILED, NOT_APPLICABLE, PASSED, Check, Condition
from recbole_rawp.evaluation.users import Users
from recbole_rawp.threats.setting import CLEAN, LOSSES, PER_USER, SETTING, UNIVERSAL

MODEL = ["model", "dataset", "defense"]
CONDITION = [field.name for field in fields(Condition)]
NUMBERS = {"stage": (1, 2), "seed": (0, np.inf), "steps": (1, np.inf)}  # whole ones, from and to
WORDS = {
    "scope": ("", UNIVERSAL, PER_USER),
    "loss": ("", *LOSSES),
    "split": ("test", "valid", "train"),
}
FACTS = {"metric": str, "bigger": bool, "settings": dict, "notes": list, "environment": str}


def expect(holds: bool, wrong: str) -> None:
    """Raise ValueError with what is wrong unless something holds."""
    if not holds:
        raise ValueError(wrong)


def read_records(path: Path) -> pd.DataFrame:
    """Read records.csv, bit for bit."""
    texts = dict.fromkeys((*MODEL, *SETTING, "threat", "loss", "metric", "split"), str)
    numbers = {"level": float, "value": float}
    frame = pd.read_csv(
        path,
        dtype={**texts, **numbers},
        keep_default_na=False,
        na_values={"value": ["", "nan"]},
        float_precision="round_trip",
    )
    missing = [name for name in COLUMNS if name not in frame]
    expect(not missing, f"no column {', '.join(missing)}")
    expect(not frame.empty, "no rows")
    check_fields(frame)
    check_curves(frame)
    whole = {name: frame[name].astype(np.int64) for name in NUMBERS}
    return frame.assign(**whole)[COLUMNS]


def check_fields(frame: pd.DataFrame) -> None:
    """Raise ValueError, with the line, for a field that cannot be."""
    for name in (*MODEL, "threat", "metric"):
        each(frame, name, frame[name].map(lambda text: bool(text.strip()) and text.isprintable()), "a name")
    for name, words in WORDS.items():
        each(frame, name, frame[name].isin(words), " or ".join(filter(None, words)))
    for name, (least, most) in NUMBERS.items():
        number = pd.to_numeric(frame[name], errors="coerce")
        each(frame, name, (number % 1 == 0) & number.between(least, most), f"a whole number from {least}")
    each(frame, "level", np.isfinite(frame["level"]) & (frame["level"] >= 0), "a number >= 0")


def each(frame: pd.DataFrame, name: str, holds: pd.Series, expected: str) -> None:
    """Raise ValueError for the first row in which a field is not as expected."""
    if not holds.all():
        row = int(np.argmin(holds.to_numpy(bool)))
        raise ValueError(f"line {row + 2}: {name} is {str(frame[name].iloc[row])!r}, not {expected}")


def check_curves(frame: pd.DataFrame) -> None:
    """Raise ValueError unless each value is there once, and each curve begins at the clean model."""
    doubled = frame.duplicated([name for name in COLUMNS if name != "value"])
    expect(not doubled.any(), f"line {int(np.argmax(doubled)) + 2} measures what a line above it does")
    curve = [name for name in COLUMNS if name not in ("level", "value")]
    begun = frame.groupby(curve)["level"].transform("min") == CLEAN
    each(frame, "threat", begun, f"measured at level {CLEAN:g}, the clean model")


def read_checks(path: Path) -> list[Check]:
    """Read checks.json."""
    rows = read_json(path)
    expect(isinstance(rows, list), "not a list of checks")
    for number, row in enumerate(rows, 1):
        names = {field.name for field in fields(Check)}
        expect(isinstance(row, dict) and row.keys() == names, f"check {number} has other fields than {sorted(names)}")
        expect(all(isinstance(value, str) for value in row.values()), f"check {number} holds what is no text")
        expect(row["status"] in (PASSED, FAILED, NOT_APPLICABLE), f"check {number}: status {row['status']!r}")
    return [Check(**row) for row in rows]


def read_facts(path: Path) -> dict[str, Any]:
    """Read report.json."""
    facts = read_json(path)
    expect(isinstance(facts, dict), "not a mapping")
    for name, kind in FACTS.items():
        expect(isinstance(facts.get(name), kind), f"{name} is {facts.get(name)!r:.80}, not {kind.__name__}")
    expect(all(isinstance(note, str) for note in facts["notes"]), "notes hold what is no text")
    return dict(facts)


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def digest(path: Path) -> str:
    """Return a digest of the arrays in an .npz, whatever wrote and packed them."""
    with np.load(path, allow_pickle=False) as arrays:
        parts = [repr((name, arrays[name].shape)).encode() + arrays[name].tobytes() for name in sorted(arrays.files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def check_same(frame: pd.DataFrame, users: Mapping[str, Users]) -> None:
    """Raise ValueError unless users and records tell of the same conditions, of each metric that users have."""
    recorded = set(frame[CONDITION].itertuples(index=False, name=None))
    of_users: dict[str, set[tuple[Any, ...]]] = {}
    for scope, part in users.items():
        found = set(map(astuple, part.conditions))
        expect(found <= recorded, "it tells of conditions that records.csv has not")
        known = frame.loc[frame["metric"].isin(part.metrics), "value"].notna().any()
        expect(not (known and np.isnan(part.values).all()), "its values are all NaN, those of records.csv are not")
        of_users.setdefault(scope.partition("-")[0], set()).update(found)
    metrics = {metric for part in users.values() for metric in part.metrics}
    for scope, found in of_users.items():
        own = frame[(frame["scope"] == scope) & frame["metric"].isin(metrics)]
        expect(set(own[CONDITION].itertuples(index=False, name=None)) <= found, "it lacks conditions of records.csv")

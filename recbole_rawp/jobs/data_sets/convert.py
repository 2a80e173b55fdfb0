"""Makes RecBole's files of a published split: the three files in which NCF, DeepCF and others give theirs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np

from recbole_rawp.errors import InputError

COLUMNS = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")  # the last two may be missing
SPARE = 3  # training interactions of a user from which on one is taken for validation
SEED = 2020

Row = tuple[str, ...]


def convert(prefix: str, dataset: str, *, data_path: str = "dataset", seed: int = SEED) -> dict[str, Any]:
    """Write `data_path/dataset` from `prefix`.train.rating, .test.rating and .test.negative: all of it or nothing.

    The published splits have no validation data: one training interaction, drawn at random, of each user with three or
    more serves here. Written are DATASET.{train,valid,all,test}.inter for RecBole's `benchmark_filename` (`all`: both
    but the last), and DATASET.test.negative for `attack_candidates`. The files that are read are not changed.

    Args:
        prefix: folder and beginning of the names of the three files. Lines of the first two: user, item, rating,
            timestamp, tab-separated; the last two may be missing. Lines of the third: `(user,item)` as in the second,
            in the same order, and negative items.
        dataset: the name for RecBole.
        data_path: the folder of data sets, RecBole's option of that name.
        seed: of the draw for validation.

    Returns:
        the new folder as `folder`; the numbers of `users`, `items`, rows of `train`, `valid` and `test`, and
        `negatives` of each test row.

    Raises:
        InputError: if a file or line is not as above, the three do not fit together, or the folder is there already.
    """
    home = Path(data_path, dataset).expanduser()
    if home.exists():
        raise InputError(f"convert: '{home}' is there already. Nothing is overwritten: name another --dataset.")
    names = {part: Path(f"{prefix}.{part}").expanduser() for part in ("train.rating", "test.rating", "test.negative")}
    rows, test = interactions(names["train.rating"]), interactions(names["test.rating"])
    check_together(rows, test, names["test.rating"])
    ranked = negatives(names["test.negative"], test, {item for _, item, *_ in rows + test})
    train, valid = spare(rows, seed)
    if not valid:
        raise InputError(f"convert: no user of '{names['train.rating']}' has {SPARE} interactions, one to validate on.")
    parts = {"train": train, "valid": valid, "all": rows, "test": test}
    files = {f"{dataset}.{part}.inter": [COLUMNS[: len(test[0])], *of_part] for part, of_part in parts.items()}
    write(home, files | {f"{dataset}.test.negative": ranked})
    found = {"folder": str(home), **{part: len(of_part) for part, of_part in parts.items()}}
    both = {"users": len({row[0] for row in rows + test}), "items": len({row[1] for row in rows + test})}
    return found | both | {"negatives": len(ranked[0]) - 1}


def lines(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield number and fields of each line that is not blank; InputError if the file cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, tuple(field.strip() for field in line.rstrip().split("\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"convert: cannot read '{path}': {error}. Name what comes before .train.rating, .test.rating and "
            ".test.negative, as in Data/yelp."
        ) from error


def interactions(path: Path) -> list[Row]:
    """Return the rows of a rating file: user, item, and rating and timestamp where it has them.

    Raises:
        InputError: for a line that is none, and if a pair comes twice: one half could be trained, the other tested on.
    """
    rows: dict[tuple[str, str], Row] = {}
    for number, row in lines(path):
        first = next(iter(rows.values()), row)
        if len(row) != len(first) or not 2 <= len(row) <= len(COLUMNS):
            remedy = "Write user, item, rating, timestamp with tabs between, as in all lines"
            refuse(path, number, f"{len(row)} columns", remedy)
        if "" in row:
            refuse(path, number, "a column is empty", "Fill it")
        if wrong := [field for field in row[2:] if not is_number(field)]:
            refuse(path, number, f"'{wrong[0]}' is no number", "Ratings and timestamps are; leave headings out")
        if rows.setdefault((row[0], row[1]), row) is not row:
            refuse(path, number, f"user '{row[0]}' has item '{row[1]}' twice", "Keep one")
    if not rows:
        raise InputError(f"convert: '{path}' holds no interactions. Name the files of a whole data set.")
    return list(rows.values())


def is_number(text: str) -> bool:
    """Tell whether the text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def check_together(train: Sequence[Row], test: Sequence[Row], path: Path) -> None:
    """Raise InputError if the test rows, read from `path`, have other columns than the others, or are among them."""
    if len(train[0]) != len(test[0]):
        raise InputError(
            f"convert: '{path}' has {len(test[0])} columns, and the training file {len(train[0])}. Cut both alike."
        )
    trained = {row[:2] for row in train}
    if known := [row for row in test if row[:2] in trained]:
        user, item = known[0][:2]
        raise InputError(
            f"convert: '{path}': user '{user}' has item '{item}' in the training file, too. Keep it in one of them."
        )


def negatives(path: Path, test: Sequence[Row], known: set[str]) -> list[Row]:
    """Return the lists of a file of negatives, `(user,item)` and items each.

    Args:
        path: the file.
        test: the rows that it must follow.
        known: the items that occur in the data: RecBole knows no others, and cannot rank them.

    Raises:
        InputError: for a line that does not fit its test row, or has fewer negatives than the first: files get cut off.
    """
    found: list[Row] = []
    for number, row in lines(path):
        pair = "({},{})".format(*test[len(found)][:2]) if len(found) < len(test) else "nothing"
        if row[0] != pair:
            refuse(path, number, f"'{row[0]}', where the test file has {pair}", "The two go line by line")
        if len(row) != len(found[0] if found else row) or len(row) < 2:
            refuse(path, number, f"{len(row) - 1} negatives", "Each line has as many as the first, one at least")
        if strange := [item for item in row[1:] if item not in known]:
            refuse(path, number, f"item '{strange[0]}' is in no interaction", "No model can know it; name another")
        found.append((pair, *row[1:]))
    if len(found) < len(test):
        raise InputError(
            f"convert: '{path}' ends after {len(found)} lines, and the test file has {len(test)}. Get the whole file."
        )
    return found


def spare(rows: Sequence[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Return training and validation rows: one of each user who has `SPARE`, drawn at random."""
    random = np.random.default_rng(seed)
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row[0], []).append(place)
    drawn = [own[random.integers(len(own))] for own in places.values() if len(own) >= SPARE]
    taken = set(drawn)
    return [row for place, row in enumerate(rows) if place not in taken], [rows[place] for place in drawn]


def write(home: Path, files: dict[str, list[Row]], *, command: str = "convert") -> None:
    """Write the folder `home` with these files, all at once: it takes its name when it is whole.

    The `command` that is at work stands before what is told.

    Raises:
        InputError: if it cannot be written, or has come into being since.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=home.parent, prefix=f".{command}-") as place:
            unnamed = Path(place, "new")
            unnamed.mkdir()
            for name, rows in files.items():
                (unnamed / name).write_text(text(rows), encoding="utf-8")
            os.rename(unnamed, home)
    except OSError as error:
        raise InputError(f"{command}: cannot write '{home}': {error.strerror}. Name another --data_path.") from error


def text(rows: Iterable[Row]) -> str:
    """Return the rows as lines of tab-separated fields."""
    return "".join("\t".join(row) + "\n" for row in rows)


def refuse(path: Path, number: int, reason: str, remedy: str) -> NoReturn:
    """Raise an InputError about a line."""
    raise InputError(f"convert: '{path}' line {number}: {reason}. {remedy}.")

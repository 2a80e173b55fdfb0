"""Keeps candidates in files, and reads published lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from recbole_rawp import files
from recbole_rawp.errors import InputError
from recbole_rawp.host.ranking.candidates import Candidates, refuse

IDENTITY = ("dataset_name", "user_num", "item_num")  # of RecBole's dataset: internal ids mean nothing elsewhere


def write_candidates(path: Path, candidates: Candidates, dataset: Any) -> None:
    """Write the candidates whole or not at all: internal ids, the items of users[i] at offsets[i] to offsets[i + 1].

    What tells RecBole's dataset from others, `IDENTITY`, is written with them.
    """
    offsets = np.cumsum([0, *map(len, candidates.values())])
    arrays = {"users": np.array(list(candidates), dtype=np.int64), "offsets": offsets}
    arrays["items"] = np.concatenate([*candidates.values(), np.array([], dtype=np.int64)])
    arrays |= {name: np.array(getattr(dataset, name)) for name in IDENTITY}
    files.write_arrays(path, arrays)


def read_candidates(path: Path, dataset: Any) -> Candidates:
    """Read what `write_candidates` wrote (`*.npz`), or a published list with raw tokens (`*.test.negative`).

    Lines of a published list: `(user,item)`, then negative items, tab-separated; several lines of a user are joined.
    Some published negatives are the item to be found itself (156 of 6,040 lists of ml-1m-loo, 86 of lastfm-loo's 1,741,
    18 of amusic-loo's 1,776). The published ranking holds it once all the same, so its place repeats another negative.

    Args:
        path: the file, see `found`.
        dataset: RecBole's dataset, which maps tokens to internal ids.

    Raises:
        InputError: if the file cannot be read or does not belong to the dataset, and says why.
    """
    try:
        path = found(path, dataset)
        return _saved(path, dataset) if path.suffix == ".npz" else _published(path, dataset)
    except InputError:
        raise
    except (OSError, EOFError, LookupError, ValueError, BadZipFile) as error:
        raise InputError(
            f"attack_candidates: cannot read '{path}': {error}. Name a run's candidates.npz or a published "
            f"*.test.negative list, here or in the data set's folder '{dataset.dataset_path}'."
        ) from error


def found(path: Path, dataset: Any) -> Path:
    """Return where the file lies: at `path`; else in the data set's folder, by its name or by the end of it alone.

    The last is RecBole's way to name the files of a split (`benchmark_filename: [train]` is NAME.train.inter), so that
    `test.negative` serves every data set that has such a list.
    """
    folder = Path(dataset.dataset_path)
    places = (path, folder / path, folder / f"{dataset.dataset_name}.{path}")
    return next((place for place in places if place.is_file()), path)


def _saved(path: Path, dataset: Any) -> Candidates:
    """Read an npz."""
    with open(path, "rb") as file:
        arrays = np.load(file, allow_pickle=False)
        users, items, offsets = (arrays[name] for name in ("users", "items", "offsets"))
        written = {name: arrays[name].item() for name in IDENTITY}
    for name, value in written.items():
        here = getattr(dataset, name)
        if value != here:
            refuse(
                f"'{path}' is of a dataset with {name} {value!r}, and here it is {here!r}",
                "Draw them anew for this dataset",
            )
    return {int(user): items[start:end] for user, start, end in zip(users, offsets[:-1], offsets[1:])}


def _published(path: Path, dataset: Any) -> Candidates:
    """Read a published list."""
    positives: dict[int, list[int]] = {}
    negatives: dict[int, list[int]] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                user, positive, *items = _line(line.split("\t"), dataset)
            except ValueError as error:
                raise InputError(
                    f"attack_candidates: '{path}' line {number}: {error}. The list must belong to dataset "
                    f"'{dataset.dataset_name}', and no filter may remove its users and items."
                ) from error
            positives.setdefault(user, []).append(positive)
            negatives.setdefault(user, []).extend(items)
    return {user: _instead(positives[user], items) for user, items in negatives.items()}


def _instead(positives: list[int], items: list[int]) -> np.ndarray:
    """Return as many items, without the positives: the places at the end repeat others; none if nothing is left."""
    kept = np.array([item for item in items if item not in positives], dtype=np.int64)
    return np.resize(kept, len(items)) if len(kept) else kept


def _line(fields: list[str], dataset: Any) -> list[int]:
    """Return `(user,item)` and the items after it as internal ids in one list; ValueError if one is unknown."""
    pair, *negatives = (field.strip() for field in fields)
    user, comma, item = pair.removeprefix("(").removesuffix(")").partition(",")
    if not comma:
        raise ValueError(f"'{pair}' is not (user,item)")
    items = [item, *filter(None, negatives)]
    return [int(dataset.token2id(dataset.uid_field, user)), *map(int, dataset.token2id(dataset.iid_field, items))]

"""Results user by user: kept together, joined, written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_rawp.evaluation.records import Condition
from recbole_rawp.files import write_arrays

SAME = ("user", "activity", "popularity")  # what several models must agree on to be compared user by user


@dataclass(frozen=True, eq=False)
class Users:
    """Per-user results of one scope: C conditions (threat, level, model ...) x M metrics x U users."""

    user: np.ndarray
    """int64 [U]: RecBole's internal ids."""
    activity: np.ndarray
    """int64 [U]: training interactions of the user."""
    popularity: np.ndarray
    """float64 [U]: mean count of training interactions of the user's test items."""
    metrics: list[str]
    """[M]: per-user metrics, such as `ndcg@10`."""
    conditions: list[Condition]
    """[C]: what was attacked, how, and by how much."""
    values: np.ndarray
    """float32 [C, M, U]."""
    overlap: np.ndarray
    """float32 [C, U]: share of the user's clean top-k list that is still in the attacked top-k list."""
    k: int
    """The length of those lists."""

    def __post_init__(self) -> None:
        """Raise ValueError unless the shapes agree."""
        conditions, metrics, users = len(self.conditions), len(self.metrics), len(self.user)
        shapes = {
            "activity": (users,),
            "popularity": (users,),
            "values": (conditions, metrics, users),
            "overlap": (conditions, users),
        }
        for name, wanted in shapes.items():
            if (found := np.shape(getattr(self, name))) != wanted:
                raise ValueError(
                    f"{name}: shape {found} does not fit {wanted}: {conditions} conditions, {users} users."
                )


def write_users(path: Path, scopes: Mapping[str, Users]) -> None:
    """Write {scope: Users} into one .npz, without pickle, whole or not at all."""
    arrays = {f"{scope}/{name}": array for scope, users in scopes.items() for name, array in _arrays(users).items()}
    write_arrays(path, arrays)


def read_users(path: Path) -> dict[str, Users]:
    """Read {scope: Users} as `write_users` wrote it.

    Raises:
        OSError, ValueError, KeyError, zipfile.BadZipFile: if the file is missing, or not one of `write_users`'.
    """
    with np.load(path, allow_pickle=False) as file:
        scopes = dict.fromkeys(key.partition("/")[0] for key in file.files)
        return {
            scope: _users({field.name: file[f"{scope}/{field.name}"] for field in fields(Users)}) for scope in scopes
        }


def join(parts: Sequence[Users]) -> Users:
    """Return the conditions of several models over the same users, in order.

    Raises:
        ValueError: if there is no part, or the users, the metrics or k differ.
    """
    if not parts:
        raise ValueError("nothing to join")
    first = parts[0]
    for part in parts[1:]:
        if differs := different(first, part):
            raise ValueError(f"per-user results cannot be joined: {', '.join(differs)} differ.")
    return replace(
        first,
        conditions=[condition for part in parts for condition in part.conditions],
        values=np.concatenate([part.values for part in parts]),
        overlap=np.concatenate([part.overlap for part in parts]),
    )


def once(users: Users) -> Users:
    """Return the results without conditions that came before."""
    first = dict(reversed([(condition, i) for i, condition in enumerate(users.conditions)]))
    kept = sorted(first.values())
    conditions = [users.conditions[i] for i in kept]
    return replace(users, conditions=conditions, values=users.values[kept], overlap=users.overlap[kept])


def different(one: Users, other: Users) -> list[str]:
    """Return the names of the fields that keep two results from being compared user by user."""
    arrays = [name for name in SAME if not np.array_equal(getattr(one, name), getattr(other, name))]
    return arrays + [name for name in ("metrics", "k") if getattr(one, name) != getattr(other, name)]


def _arrays(users: Users) -> dict[str, np.ndarray]:
    """Return the fields as arrays that need no pickle."""
    found = {field.name: getattr(users, field.name) for field in fields(Users)}
    text = {
        "metrics": np.array(json.dumps(users.metrics)),
        "conditions": np.array(json.dumps([asdict(condition) for condition in users.conditions])),
    }
    return {name: np.asarray(array) for name, array in (found | text).items()}


def _users(arrays: dict[str, np.ndarray]) -> Users:
    """Undo `_arrays`."""
    conditions = [Condition(**fields) for fields in json.loads(str(arrays["conditions"]))]
    metrics = json.loads(str(arrays["metrics"]))
    if not isinstance(metrics, list) or not all(isinstance(name, str) for name in metrics):
        raise ValueError(f"metrics: {metrics!r} are no names.")
    own: dict[str, Any] = {"metrics": metrics, "conditions": conditions, "k": int(arrays["k"])}
    users = Users(**(arrays | own))
    _check_numbers(users)
    return users


def _check_numbers(users: Users) -> None:
    """Raise ValueError for arrays of another kind, and for numbers that cannot be."""
    for name, kinds in {"user": "iu", "activity": "iu", "popularity": "f", "values": "f", "overlap": "f"}.items():
        array = getattr(users, name)
        if array.dtype.kind not in kinds:
            raise ValueError(f"{name}: holds no numbers, or some of the wrong kind ({array.dtype}).")
    if np.isnan(users.popularity).any():
        raise ValueError("popularity: holds NaN.")
    if users.k < 1 or np.any((users.overlap < 0) | (users.overlap > 1)):
        raise ValueError(f"overlap: no shares, from 0 to 1, of the top {users.k}.")
    if len(set(users.conditions)) < len(users.conditions):
        raise ValueError("conditions: one is there twice.")

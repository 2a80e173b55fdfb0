"""Tells by content whether two data sets give a model the same rows and the same internal ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction

KEY = "data_fingerprint"  # in the config of a checkpoint
MIXER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
Fingerprint = dict[str, dict[str, str]]


def of(train_data: Any, valid_data: Any) -> Fingerprint | None:
    """Return digests of the ids of each field of tokens, and of the rows of two of RecBole's loaders, in any order.

    None where these are not RecBole's. Which rows are test data follows, where RecBole splits.
    """
    loaders = {"training": train_data, "valid": valid_data}
    data = {name: getattr(loader, "_dataset", None) for name, loader in loaders.items()}
    dataset = data["training"]
    if dataset is None or not is_recboles(dataset):
        return None
    ids = {str(field): digest(map(str, tokens)) for field, tokens in dataset.field2id_token.items()}
    return {"ids": ids, "rows": {name: rows_of(own) for name, own in data.items() if is_recboles(own)}}


def is_recboles(dataset: Any) -> bool:
    """Tell whether a data set is RecBole's, and built: its interactions are tensors."""
    return isinstance(dataset, Dataset) and isinstance(dataset.inter_feat, Interaction)


def digest(words: Iterator[str]) -> str:
    """Return a digest of words in their order."""
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def rows_of(dataset: Any) -> str:
    """Return how many interactions a data set has, and a digest of them in any order: users, items, labels."""
    feat = dataset.inter_feat
    named = [name for name in (dataset.uid_field, dataset.iid_field, dataset.label_field) if name and name in feat]
    mixed = np.zeros(len(feat), dtype=np.uint64)
    for name in named or [name for name in feat.interaction if feat[name].dim() == 1]:
        mixed = (mixed ^ feat[name].double().cpu().numpy().view(np.uint64)) * MIXER
        mixed ^= mixed >> np.uint64(29)
    return f"{len(feat)} rows, digest {hashlib.sha256(np.sort(mixed).tobytes()).hexdigest()[:16]}"


def is_one(value: Any) -> bool:
    """Tell whether a checkpoint's value is what `of` returns."""
    return value is None or (
        isinstance(value, dict)
        and value.keys() == {"ids", "rows"}
        and all(isinstance(part, dict) and all(isinstance(x, str) for x in part.values()) for part in value.values())
    )


def differences(then: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Say what the data have otherwise than they had; where ids moved, rows cannot be compared.

    Fields that only one of them loads are no difference: a model that reads them would not fit.
    """
    moved = [field for field, value in then["ids"].items() if now["ids"].get(field, value) != value]
    if moved:
        return [f"the internal ids of {', '.join(moved)} stand for others than in training"]
    return [
        f"{name} data: {now['rows'].get(name, 'none')}, trained with {value}"
        for name, value in then["rows"].items()
        if now["rows"].get(name) != value
    ]

"""Checks RecBole's settings of what data are loaded and how they are split, of which RecBole takes what it knows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from recbole_rawp.errors import InputError, suggestion

KEYS = {
    "eval_args": ("split", "order", "group_by", "mode"),
    "eval_args: split": ("RS", "LS", "TS"),
    "eval_args: mode": ("valid", "test"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}
FILES = ("inter", "user", "item", "kg", "link", "net")  # ends of atomic files' names; `net`: RecBole-GNN's
COLUMNS = ("load_col", "unload_col", "unused_col")  # {end of a file's name: columns}
FIELDS = ("threshold", "val_interval", "preload_weight", "seq_len", "discretization")  # {column: ...}
INTERVALS = ("user_inter_num_interval", "item_inter_num_interval", "entity_kg_num_interval", "relation_kg_num_interval")
MODE = re.compile(r"full|labeled|(uni|pop)[1-9]\d*")
NUMBER = r"\s*[-+]?(inf(inity)?|[\d.]+(e[-+]?\d+)?)\s*"
INTERVAL = re.compile(rf"\s*[\[(]{NUMBER},{NUMBER}[\])]\s*(;\s*[\[(]{NUMBER},{NUMBER}[\])]\s*)*", re.I)
LONGEST = 150  # bytes of a data set's name, which RecBole puts between others into that of its log
LEFT_OUT = ("valid_and_test", "valid_only", "test_only")


def check_name(dataset: Any) -> None:
    """Raise InputError for the name of a data set that is no name of a folder: RecBole puts it into paths."""
    if not isinstance(dataset, str):
        raise InputError(f"dataset: {dataset!r} is not valid; expected a name. In a YAML file put it in quotes.")
    folder, name = os.path.split(dataset.rstrip("/"))
    if folder or not name:
        raise InputError(f"dataset: '{dataset}' is a path. Say --data_path='{folder or '..'}' --dataset='{name}'.")
    if len(name.encode()) > LONGEST:
        raise InputError(f"dataset: '{name[:20]}...' is longer than {LONGEST} bytes, for names of files. Shorten it.")


def check_data(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check the settings that were `given`, among all that are `known`.

    Raises:
        InputError: for a key inside a mapping that RecBole would pass over, or a value that it cannot use.
    """
    for key in ("data_path", "checkpoint_dir"):
        if not isinstance(given.get(key, ""), (str, os.PathLike)):
            raise wrong(key, given[key], "a path; in a YAML file put it in quotes")
    for key in ("train_batch_size", "eval_batch_size"):
        if given.get(key, 1) < 1:
            raise wrong(key, given[key], "a whole number from 1 up")
    for key in given.keys() & {*KEYS, *COLUMNS, *FIELDS}:
        none = {"eval_args": (), "train_neg_sample_args": (None, "None")}.get(key, (None,))
        if given[key] not in none and not isinstance(given[key], Mapping):
            raise wrong(key, given[key], "a mapping, such as {key: value}" + " or null" * (key != "eval_args"))
    shown = {key: value for key, value in given.items() if value is not None}
    check_evaluation(shown.get("eval_args", {}), split=not known.get("benchmark_filename"))
    if isinstance(negatives := shown.get("train_neg_sample_args"), Mapping):
        check_negatives(negatives)
    check_columns(shown, known)
    check_fields(shown)
    files = shown.get("benchmark_filename")
    if files is not None and (not isinstance(files, (list, tuple)) or len(files) != 3):
        raise wrong("benchmark_filename", files, "three names: of training, valid and test data")
    if "seed" in given and is_whole(given["seed"]) and not 0 <= given["seed"] < 2**32:
        raise wrong("seed", given["seed"], "a number from 0 to 4294967295")


def wrong(key: str, value: Any, expected: str) -> InputError:
    """Return the error for a value of another kind than expected."""
    return InputError(f"{key}: {value!r} is not valid; expected {expected}.")


def check_keys(name: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raise InputError for a key that a mapping of RecBole's does not have."""
    known = tuple(known)
    for key in given:
        if key not in known:
            hint = suggestion(str(key), known) or f" Known: {', '.join(known)}."
            blank = " A blank belongs after each colon." * (":" in str(key))
            raise InputError(f"{name}: there is no key '{key}'.{blank or hint}")


def check_evaluation(given: Mapping[Any, Any], *, split: bool) -> None:
    """Check `eval_args`; its split only where RecBole splits."""
    check_keys("eval_args", given, KEYS["eval_args"])
    if given.get("order", "RO") not in ("RO", "TO"):
        raise wrong("eval_args: order", given["order"], "RO (random) or TO (by time)")
    if given.get("group_by") not in (None, "user") and str(given["group_by"]).lower() != "none":
        raise wrong("eval_args: group_by", given["group_by"], "user or none")
    mode = given.get("mode", "full")
    if isinstance(mode, Mapping):
        check_keys("eval_args: mode", mode, KEYS["eval_args: mode"])
    for value in mode.values() if isinstance(mode, Mapping) else (mode,):
        if not isinstance(value, str) or not MODE.fullmatch(value):
            raise wrong("eval_args: mode", value, "full, labeled, uniN or popN with a number of candidates, as uni100")
    if split and "split" in given:
        check_split(given["split"])


def check_split(split: Any) -> None:
    """Check the split of `eval_args`."""
    if not isinstance(split, Mapping) or len(split) != 1:
        raise wrong("eval_args: split", split, "one of {RS: [0.8, 0.1, 0.1]}, {LS: valid_and_test}")
    check_keys("eval_args: split", split, KEYS["eval_args: split"])
    ((how, parts),) = split.items()
    if how == "LS" and parts not in LEFT_OUT:
        raise wrong("eval_args: split: LS", parts, " or ".join(LEFT_OUT))
    if how != "LS" and not (
        isinstance(parts, list) and len(parts) == 3 and all(map(is_number, parts)) and min(parts) >= 0 < parts[0]
    ):
        raise wrong(f"eval_args: split: {how}", parts, "three shares, as [0.8, 0.1, 0.1], the first above 0")


def check_negatives(given: Mapping[Any, Any]) -> None:
    """Check `train_neg_sample_args`."""
    check_keys("train_neg_sample_args", given, KEYS["train_neg_sample_args"])
    if given.get("distribution", "uniform") in (None, "None"):
        return
    tests = {
        "distribution": (lambda value: value in ("uniform", "popularity"), "uniform, popularity or null"),
        "sample_num": (lambda value: is_whole(value) and value > 0, "a whole number from 1 up"),
        "alpha": (is_number, "a number"),
        "dynamic": (lambda value: isinstance(value, bool), "true or false"),
        "candidate_num": (lambda value: is_whole(value) and value >= 0, "a whole number from 0 up"),
    }
    for key, (accepts, expected) in tests.items():
        if key in given and not accepts(given[key]):
            raise wrong(f"train_neg_sample_args: {key}", given[key], expected)


def check_columns(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Check the settings that list columns by the end of their file's name."""
    more = known.get("additional_feat_suffix") or ()
    files = (*FILES, *((more,) if isinstance(more, str) else more))
    for key in COLUMNS:
        check_keys(key, given.get(key, ()), files)
        for end, columns in given.get(key, {}).items():
            listed = isinstance(columns, (list, tuple, set)) and all(isinstance(name, str) for name in columns)
            if not listed and not (columns == "*" and key == "load_col"):
                raise wrong(f"{key}: {end}", columns, "a list of columns, as [user_id, item_id]")


def check_fields(given: Mapping[str, Any]) -> None:
    """Check the settings that say something of single columns, and the intervals."""
    threshold = given.get("threshold")
    if threshold is not None and (len(threshold) != 1 or not all(map(is_number, threshold.values()))):
        raise wrong("threshold", threshold, "one column and a number, as {rating: 4}")
    for name, length in given.get("seq_len", {}).items():
        if not is_whole(length) or length < 1:
            raise wrong(f"seq_len: {name}", length, "a whole number from 1 up")
    for name, how in given.get("discretization", {}).items():
        if not isinstance(how, Mapping) or how.get("method") not in ("ED", "LD"):
            raise wrong(f"discretization: {name}", how, "{method: LD} or {method: ED, bucket: 10}")
    intervals = {key: given[key] for key in INTERVALS if key in given}
    values = {f"val_interval: {name}": value for name, value in given.get("val_interval", {}).items()}
    for key, value in (intervals | values).items():
        if not (key in values and isinstance(value, (list, tuple))) and not INTERVAL.fullmatch(str(value)):
            tokens = ", or tokens in a list" * (key in values)
            raise wrong(key, value, f"an interval such as '[3,inf)' or '(0,5]'{tokens}")


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, which no bool is."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number, which no bool is."""
    return isinstance(value, Integral) and not isinstance(value, bool)

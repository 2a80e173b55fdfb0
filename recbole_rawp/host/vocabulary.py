"""Finds the weights of a RecBole model that hold a row or column per user, item or other token.

A dimension that equals the number of users may be one by chance: 48 users, and a hidden layer of width 48. So the model
is built again on small stand-ins of its data set, in which one number of tokens d_f at a time (users, items, entities,
relations, each further token field) is larger by `MORE`, and each dimension is looked at:

    slope_f = (size where d_f is larger - size) / MORE;  expected = size + sum_f slope_f (the data set's own d_f - d_f)

A dimension follows the tokens if some slope is positive and the model's own is no less than expected. Less is one that
stops growing, as in min(64, n_items).
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import nn

from recbole_rawp.core import restoring, selection

FEW, MORE, ROWS = 64, 64, 256  # tokens of a field, how many more in its turn, rows of a stand-in's tables
BY_STAND_INS = "dimensions that follow the data set's numbers of tokens, seen on small stand-ins of it"
BY_SIZE = "dimensions as large as the number of users, items or entities or a sum of two"
# Settings under which models read no pretrained weights, which a stand-in's would not fit; their shapes are the same.
UNTAUGHT: dict[str, dict[str, Any]] = {
    "NeuMF": {"use_pretrain": False},
    "ConvNCF": {"train_method": "no_pretrain"},
    "NAIS": {"pretrain_path": None},
    "RaCT": {"train_stage": "actor_pretrain"},
    "S3Rec": {"train_stage": "pretrain"},
    "KD_DAGFM": {"phase": "teacher_training"},
}
Shapes = dict[str, torch.Size]
Sizes = dict[tuple[str, ...], int]  # fields that share their tokens -> how many


@dataclass(frozen=True)
class Tables:
    """Names of the weights of a model that are sized by a vocabulary, and the rule by which they were found."""

    names: frozenset[str]
    rule: str


_noted: WeakKeyDictionary[nn.Module, Tables] = WeakKeyDictionary()


def tables(model: nn.Module) -> Tables:
    """Return the weights of the model that are sized by a vocabulary: as noted, else those of its own exact sizes."""
    return _noted.get(model) or by_size(model, "the data set is not at hand")


def by_size(model: nn.Module, reason: str) -> Tables:
    """Return the weights with a dimension of the model's own sizes (`selection.sized`), and why no better is known."""
    sizes = (getattr(model, name, None) for name in ("n_users", "n_items", "n_entities"))
    names = selection.sized(model, [size for size in sizes if isinstance(size, int)])
    return Tables(names, f"{BY_SIZE} ({reason})")


def note(model: nn.Module, config: Any, dataset: Any) -> None:
    """Find out, once, which weights of `model` are sized by a vocabulary of `dataset`, the one that it was built on.

    All generators are put back; model, config and dataset stay as they are. Where the model cannot be built on
    stand-ins, exact sizes decide.
    """
    if model in _noted:
        return
    try:
        with quiet(), restoring.rng():
            names = followers(model, config, dataset)
    except Exception as error:  # any constructor, a user's own too
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        _noted[model] = by_size(model, f"{type(model).__name__} could not be built on stand-ins: {why}")
    else:
        _noted[model] = Tables(names, BY_STAND_INS)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be logged, printed or warned of."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def followers(model: nn.Module, config: Any, dataset: Any) -> frozenset[str]:
    """Return the names of the weights with a dimension that follows some number of tokens.

    Raises:
        ValueError: if the model on stand-ins has other weights than the model.
    """
    own, groups = shapes(model), token_groups(dataset)
    few = {fields: FEW * (2 if getattr(dataset, "entity_field", None) in fields else 1) for fields in groups}
    build = partial(built, model, config, dataset)
    base, varied = build(few), {fields: build({**few, fields: few[fields] + MORE}) for fields in groups}
    found = set()
    for name, axis in ((name, axis) for name, shape in own.items() for axis in range(len(shape))):
        slopes = {fields: (shape[name][axis] - base[name][axis]) / MORE for fields, shape in varied.items()}
        growth = sum(slope * (groups[fields] - few[fields]) for fields, slope in slopes.items())
        if max(slopes.values(), default=0) > 0 and own[name][axis] >= base[name][axis] + growth:
            found.add(name)
    return frozenset(found)


def built(model: nn.Module, config: Any, dataset: Any, sizes: Sizes) -> Shapes:
    """Return the shapes of the model on a stand-in with these numbers of tokens; raise ValueError as `followers`."""
    found, own = shapes(type(model)(*stand_in(type(model), config, dataset, sizes))), shapes(model)
    if {name: len(shape) for name, shape in found.items()} != {name: len(shape) for name, shape in own.items()}:
        raise ValueError("it has other weights")
    return found


def shapes(model: nn.Module) -> Shapes:
    """Return the shapes of all parameters, by every name that they have."""
    return {name: weight.shape for name, weight in model.named_parameters(remove_duplicate=False)}


def token_groups(dataset: Any) -> Sizes:
    """Return the token fields, those that share their tokens together (head and tail of a fact) -> number of tokens."""
    shared: dict[int, list[str]] = {}
    for field, tokens in dataset.field2id_token.items():
        shared.setdefault(id(tokens), []).append(field)
    return {tuple(fields): len(dataset.field2id_token[fields[0]]) for fields in shared.values()}


def stand_in(model_class: type, config: Any, dataset: Any, sizes: Sizes) -> tuple[Any, Any]:
    """Return a config on the CPU, and a data set of the same class with a few rows and so many tokens per field."""
    config = copy.copy(config)
    config.final_config_dict = copy.deepcopy(config.final_config_dict) | {"device": torch.device("cpu")}
    for cls in model_class.__mro__:
        config.final_config_dict |= UNTAUGHT.get(cls.__name__, {})
    small, of = copy.copy(dataset), {field: size for fields, size in sizes.items() for field in fields}
    small.config = config
    small.field2id_token = {field: resized(dataset.field2id_token[field], size) for field, size in of.items()}
    given = dataset._preloaded_weight.items()
    small._preloaded_weight = {field: np.resize(table, (of[field], *table.shape[1:])) for field, table in given}
    lists = {field + (config["LIST_SUFFIX"] or ""): size for field, size in of.items()}
    for name in dataset.feat_name_list:
        key = {"user_feat": dataset.uid_field, "item_feat": dataset.iid_field}.get(name)
        setattr(small, name, few_rows(getattr(dataset, name), lists | of, key))
    return config, small


def resized(tokens: np.ndarray, size: int) -> np.ndarray:
    """Return `size` tokens; first (padding) and last (a graph's [UI-Relation]) stay in their places."""
    return np.append(np.resize(tokens, size - 1), tokens[-1:])


def few_rows(feat: Interaction, sizes: dict[str, int], key: str | None) -> Interaction:
    """Return `ROWS` rows of a table, or one for each token of its `key`, in which each token of a field occurs.

    Ids count up in each field, in steps that differ, so that pairs do. Padding stays where it was.
    """
    rows = sizes[key] if key else ROWS
    found = dict(feat[torch.arange(rows) % len(feat)].interaction)
    for step, field in enumerate(found):
        if field in sizes and not found[field].is_floating_point():
            tokens, place = sizes[field] - 1, torch.arange(found[field].numel()).view_as(found[field])
            ids = 1 + (place + step * (place // tokens)) % tokens
            found[field] = torch.arange(rows) if field == key else torch.where(found[field] > 0, ids, 0)
    return Interaction(found)

"""What does RecBole's whole zoo train on here?  A small data set with all that any model reads; settings per case."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests import toy_data
from tests.conftest import TOY

VECTOR = 16  # of an entity's or relation's own features


@dataclass(frozen=True)
class Case:
    """How one model trains.

    Attributes:
        model: its name.
        config: RecBole's settings.
        hidden: whether it has hidden weights; else its embeddings are hardened.
        needs: a package that the model imports, which may be missing.
        before: settings of the stages of pretraining that this one goes on from.
        note: for the table.
    """

    model: str
    config: dict[str, Any]
    hidden: bool = True
    needs: str | None = None
    before: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def target(self) -> str:
        """What is hardened and attacked."""
        return "hidden" if self.hidden else "embeddings"


def cases() -> dict[str, Case]:
    """Return the cases of `zoo_cases.yaml` by model."""
    content = yaml.safe_load(Path(__file__).with_name("zoo_cases.yaml").read_text(encoding="utf-8"))
    found = {}
    for family in content.values():
        for name, own in family["models"].items():
            own = dict(own or {})
            fields = {key: own.pop(key) for key in ("hidden", "needs", "before", "note") if key in own}
            config = {**TOY, "epochs": 1, "model": name, **family["settings"], **own}
            found[name] = Case(name, config, **fields)
    return found


def shard(models: list[str]) -> list[str]:
    """Return the part of the zoo that ZOO_SHARD names: 1/2 is the first of two, every other model."""
    number, of = map(int, os.environ.get("ZOO_SHARD", "1/1").split("/"))
    if not 1 <= number <= of:
        raise ValueError(f"ZOO_SHARD: {number}/{of} names no part. Use 1/{of} to {of}/{of}.")
    return models[number - 1 :: of]


def write(folder: Path) -> Path:
    """Write `toy_data`'s set, and what it lacks: many-valued attributes, features of entities and relations."""
    home = toy_data.write(folder) / "toy"
    random = np.random.default_rng(1)
    items = [(f"i{i}", f"c{i % 7}", f"k{i % 11} k{i % 13}") for i in range(toy_data.ITEMS)]
    toy_data.table(home / "toy.item", ["item_id:token", "genre:token", "class:token_seq"], items)
    for kind, count in (("ent", toy_data.ENTITIES), ("rel", toy_data.RELATIONS)):
        rows = [(f"{kind[0]}{i}", " ".join(f"{x:.4f}" for x in random.normal(size=VECTOR))) for i in range(count)]
        toy_data.table(home / f"toy.{kind}", [f"{kind}_id:token", f"{kind}_vec:float_seq"], rows)
    return folder

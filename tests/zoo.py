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

VECTOR = 16  # length of an entity's, a relation's or an item's own features


@dataclass(frozen=True)
class Case:
    """How one model trains.

    Attributes:
        label: its name, and after a comma that of the variant.
        config: RecBole's settings, the model's name among them.
        hidden: whether it has hidden weights; else its embeddings are hardened.
        needs: a package that the model imports, which may be missing.
        before: settings of the stages that this one goes on from.
        file: the setting that names their last checkpoint.
        note: for the table.
    """

    label: str
    config: dict[str, Any]
    hidden: bool = True
    needs: str | None = None
    before: list[dict[str, Any]] = field(default_factory=list)
    file: str = "pre_model_path"
    note: str = ""

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.config["model"])

    @property
    def variant(self) -> bool:
        """Whether these are other settings than the model's first ones."""
        return self.label != self.model

    @property
    def pretraining(self) -> bool:
        """Whether this is a stage before the one that counts."""
        return "pretrain" in self.config.get("train_stage", "")

    @property
    def target(self) -> str:
        """What is hardened and attacked."""
        return "hidden" if self.hidden else "embeddings"


def cases() -> dict[str, Case]:
    """Return the cases of `zoo_cases.yaml` by label: each model's first settings, then its variants."""
    content = yaml.safe_load(Path(__file__).with_name("zoo_cases.yaml").read_text(encoding="utf-8"))
    found = {}
    for family in content.values():
        for model, own in family["models"].items():
            own = dict(own or {})
            variants = own.pop("variants", {})
            base = {**TOY, "epochs": 1, "model": model, **family["settings"], **own}
            found[model] = case(model, base)
            found |= {f"{model}, {name}": case(f"{model}, {name}", base | other) for name, other in variants.items()}
    return found


def case(label: str, settings: dict[str, Any]) -> Case:
    """Return the case: what `settings` says of it, and the rest as RecBole's."""
    about = {key: settings[key] for key in ("hidden", "needs", "before", "file", "note") if key in settings}
    return Case(label, {key: value for key, value in settings.items() if key not in about}, **about)


def shard(labels: list[str]) -> list[str]:
    """Return the part of the zoo that ZOO_SHARD names: 1/2 is the first of two, every other case."""
    number, of = map(int, os.environ.get("ZOO_SHARD", "1/1").split("/"))
    if not 1 <= number <= of:
        raise ValueError(f"ZOO_SHARD: {number}/{of} names no part. Use 1/{of} to {of}/{of}.")
    return labels[number - 1 :: of]


def write(folder: Path) -> Path:
    """Write `toy_data`'s set, and what it lacks: many-valued attributes, features of entities and relations."""
    home = toy_data.write(folder) / "toy"
    random = np.random.default_rng(1)
    items = [(f"i{i}", f"c{i % 7}", f"k{i % 11} k{i % 13}") for i in range(toy_data.ITEMS)]
    toy_data.table(home / "toy.item", ["item_id:token", "genre:token", "class:token_seq"], items)
    np.save(home / "item_emb.npy", random.normal(size=(toy_data.ITEMS, VECTOR)).astype(np.float32))
    for kind, count in (("ent", toy_data.ENTITIES), ("rel", toy_data.RELATIONS)):
        rows = [(f"{kind[0]}{i}", " ".join(f"{x:.4f}" for x in random.normal(size=VECTOR))) for i in range(count)]
        toy_data.table(home / f"toy.{kind}", [f"{kind}_id:token", f"{kind}_vec:float_seq"], rows)
    return folder

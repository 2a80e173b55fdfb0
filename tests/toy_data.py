"""A small data set in RecBole's format: prime numbers of users and items, so that shapes cannot be confused."""

from __future__ import annotations

from pathlib import Path

import numpy as np

USERS, ITEMS, ENTITIES, RELATIONS = 47, 61, 83, 5


def write(folder: Path) -> Path:
    """Write `toy/toy.{inter,user,item,kg,link}` into `folder`, the same on every call, and return `folder`."""
    random = np.random.default_rng(0)
    home = folder / "toy"
    home.mkdir(parents=True)
    taste = random.normal(size=(USERS, 3)) @ random.normal(size=(3, ITEMS))
    rows = []
    for user in range(USERS):
        chosen = np.argsort(-(taste[user] + random.gumbel(size=ITEMS)))[: 12 + user % 7]
        for item in random.permutation(chosen):
            rows.append((f"u{user}", f"i{item}", 1 + int(4 * random.random() + (taste[user, item] > 0)), len(rows)))
    table(home / "toy.inter", ["user_id:token", "item_id:token", "rating:float", "timestamp:float"], rows)
    users = [(f"u{u}", f"a{u % 5}", f"g{u % 2}") for u in range(USERS)]
    table(home / "toy.user", ["user_id:token", "age:token", "gender:token"], users)
    table(home / "toy.item", ["item_id:token", "genre:token"], [(f"i{i}", f"c{i % 7}") for i in range(ITEMS)])
    table(home / "toy.link", ["item_id:token", "entity_id:token"], [(f"i{i}", f"e{i}") for i in range(ITEMS)])
    facts = {tuple(random.integers((ENTITIES, RELATIONS, ENTITIES))) for _ in range(400)}
    facts = [(f"e{head}", f"r{relation}", f"e{tail}") for head, relation, tail in sorted(facts)]
    table(home / "toy.kg", ["head_id:token", "relation_id:token", "tail_id:token"], facts)
    return folder


def table(path: Path, header: list[str], rows: list[tuple]) -> None:
    """Write one atomic file."""
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n")

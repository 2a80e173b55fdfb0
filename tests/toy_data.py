"""A small data set in RecBole's format: prime numbers of users and items, so that shapes cannot be confused."""

from pathlib import Path

import numpy as np

USERS, ITEMS = 47, 61


def write(folder: Path) -> Path:
    """Write `toy/toy.{inter,user,item}` into `folder`, the same on every call, and return `folder`."""
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
    return folder


def table(path: Path, header: list[str], rows: list[tuple]) -> None:
    """Write one atomic file."""
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n")

"""`recbole-rawp fetch ml-1m`: fetches MovieLens 1M from GroupLens, and makes RecBole's files of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command, check_alone


def run(options: dict[str, Any], name: str, *, argv: Sequence[str]) -> int:
    """Fetch a data set, and say what it holds."""
    from recbole_rawp.jobs.data_sets.movielens import fetch

    check_alone(options, {"data_path", "accept_terms"}, "fetch takes --data_path and --accept_terms")
    place = str(options.get("data_path", "dataset"))
    found = fetch(name, accepted=bool(options.get("accept_terms", False)), data_path=place)
    print("{folder}: {ratings} ratings, {users} users, {movies} movies".format(**found))
    return 0


COMMAND = Command(
    run,
    help="fetches MovieLens 1M from GroupLens, and makes RecBole's files of it",
    examples=("fetch ml-1m --accept_terms", "fetch ml-1m --accept_terms --data_path=data"),
    more="They are written into DATA_PATH/ml-1m, `dataset` by default, where RecBole looks for them.",
    words=1,
    metavar="NAME",
    takes="the data set's name",
    word="ml-1m",
    choices=("ml-1m",),
    general=(),
    own={"accept_terms": ("", "say that you have read GroupLens' terms, and agree")},
    sections=(),
)

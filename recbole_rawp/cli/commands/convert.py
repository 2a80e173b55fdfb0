"""`recbole-rawp convert PREFIX`: makes RecBole's files of a published split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_rawp.cli.command import Command, check_alone
from recbole_rawp.errors import InputError


def run(options: dict[str, Any], prefix: str, *, argv: Sequence[str]) -> int:
    """Make RecBole's files of a published split, and say what they hold."""
    from recbole_rawp.jobs.data_sets.convert import SEED
    from recbole_rawp.jobs.data_sets.convert import convert as converted

    check_alone(options, {"dataset", "data_path", "seed"}, "convert takes --dataset, --data_path and --seed")
    if "dataset" not in options:
        raise InputError("--dataset: missing. Name the data set that is written, as in --dataset=yelp-loo.")
    name, place, seed = options["dataset"], str(options.get("data_path", "dataset")), options.get("seed", SEED)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed: {seed!r} is not valid; expected int >= 0.")
    found = converted(prefix, name, data_path=place, seed=seed)
    print("{folder}: {users} users, {items} items; {train} interactions to train, ".format(**found), end="")
    print("{valid} to validate and {test} to test on, each of these with {negatives} negatives".format(**found))
    return 0


COMMAND = Command(
    run,
    help="makes RecBole's files of a split that is published as PREFIX.train.rating, .test.rating and .test.negative",
    examples=("convert Data/yelp --dataset=yelp-loo --data_path=data",),
    more="They are written into DATA_PATH/DATASET. --seed draws a training interaction of each user for validation.",
    words=1,
    metavar="PREFIX",
    takes="the beginning of the files' names",
    word="Data/yelp",
    general=("dataset",),
    sections=(),
)

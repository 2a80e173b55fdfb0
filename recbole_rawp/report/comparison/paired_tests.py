"""Tests which differences between defenses count: paired over users, corrected for all that were looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.evaluation import statistics
from recbole_rawp.report.comparison import run_rows

AGAINST = ("none", "rawp_ft")  # what the others are compared with
KEY = ["model", "dataset", "against", "defense", "level"]

Scores = dict[tuple[str, int], dict[float, pd.Series]]  # (defense, seed) -> level -> user -> score


def tests(rows: pd.DataFrame, home: Path) -> pd.DataFrame:
    """Return the paired differences of all defenses, at every level, within each model and data set.

    Each user's difference is the mean over the seeds that both defenses finished, within a seed on the same split. p:
    Wilcoxon's signed-rank test, two-sided; p_holm: corrected for all rows, whichever the reader looks at.
    """
    found: list[dict[str, Any]] = []
    for place, group in rows.groupby(["model", "dataset"], sort=False):
        scores = {
            (row["defense"], row["seed"]): run_rows.user_scores(home / row["folder"])
            for row in group.to_dict("records")
        }
        found += [dict(zip(("model", "dataset"), place)) | row for row in within_place(scores)]
    columns = [*KEY, "seeds", "users", "before", "after", "mean", "low", "high", "p"]
    frame = pd.DataFrame(found, columns=columns)
    return frame.assign(p_holm=statistics.holm(frame["p"].tolist()))


def within_place(scores: Scores) -> list[dict[str, Any]]:
    """Return the differences, not yet corrected, of the defenses of one model on one data set."""
    pairs = {}
    for against, defense in pairings(list(dict.fromkeys(name for name, _ in scores))):
        seeds = [seed for name, seed in scores if name == defense and (against, seed) in scores]
        met = [scores[name, seed].keys() for name in (against, defense) for seed in seeds]
        for level in sorted(set.intersection(*map(set, met))) if met else ():
            both = [(scores[against, seed][level], scores[defense, seed][level]) for seed in seeds]
            found = averaged(both)
            if not found.isna().to_numpy().all(axis=0).any():  # scores of NaN compare with nothing
                pairs[against, defense, level, len(seeds)] = found
    if not pairs:
        return []
    users = pd.concat(pairs, axis=1, join="inner").dropna()  # the same users in every row
    return [] if users.empty else rows_of(users)


def pairings(defenses: Sequence[str]) -> list[tuple[str, str]]:
    """Return who is compared with whom: all with plain, then the rest with rawp_ft."""
    first = [name for name in AGAINST if name in defenses]
    return [(one, other) for i, one in enumerate(first) for other in defenses if other not in first[: i + 1]]


def averaged(pairs: Sequence[tuple[pd.Series, pd.Series]]) -> pd.DataFrame:
    """Return each user's scores before and after, means over the pairs; users that some lack are left out."""
    sides = [pd.concat(side, axis=1, join="inner").mean(axis=1, skipna=False) for side in zip(*pairs)]
    return pd.concat(dict(zip(("before", "after"), sides)), axis=1, join="inner")


def rows_of(users: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the tests of score pairs: columns (against, defense, level, seeds, before or after), a row per user."""
    before, after = (users.xs(side, axis=1, level=-1) for side in ("before", "after"))
    found = statistics.differences((after - before).to_numpy().T)
    return [
        {
            **dict(zip(("against", "defense", "level", "seeds"), key)),
            **{"users": len(users), "before": before[key].mean(), "after": after[key].mean()},
            **{"mean": d.mean, "low": d.low, "high": d.high, "p": d.p},
        }
        for key, d in zip(before.columns, found)
    ]

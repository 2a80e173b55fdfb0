"""Whom does the attack hurt, and is it more than chance?  Per-user results -> parts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from recbole_rawp.evaluation import statistics
from recbole_rawp.evaluation.users import Users
from recbole_rawp.report.curves import (
    attack_title,
    by_radius,
    complete,
    curves,
    gradient_attacks,
    known_means,
    label,
    named,
    over_seeds,
    percent,
    places,
    shares,
    strongest,
    telling_radius,
    tried,
    within,
)
from recbole_rawp.report.tables import markdown
from recbole_rawp.report.wording import Setting

MANY = 3  # models; of more, each is compared with the first only
CELL = ["defense", "attack", "radius"]


def sections(
    parts: Sequence[Users], frame: pd.DataFrame, setting: Setting, metric: str, *, bigger: bool, slices: bool
) -> list[str]:
    """Return the parts of the report on the users of one setting; nothing where it has no per-user results.

    Args:
        parts: results of models over the same users, one part per set of users.
        frame: the records, all settings.
        slices: whether to add the table by activity and popularity.
    """
    frame = within(frame, setting)
    kept = over_seeds(shares(curves(frame, metric), bigger=bigger, metric=metric))
    radius = telling_radius(strongest(tried(kept, frame, metric)))
    if radius is None:
        return []
    tables = [(part, within(named(complete(pd.DataFrame(part.cells)), like=frame), setting)) for part in parts]
    tables = [(part, cells) for part, cells in tables if not cells.empty]
    found: list[str] = []
    for (part, cells), where in zip(tables, told_apart([cells for _, cells in tables])):
        found += of_part(part, cells, kept, radius, metric, where, bigger=bigger, slices=slices)
    return found


def told_apart(parts: Sequence[pd.DataFrame]) -> list[str]:
    """Return the ends of the parts' headings: models and data sets if there are several, and seeds if these recur."""
    names = [places(cells) for cells in parts]
    seeds = [f", seed {', '.join(map(str, cells['seed'].unique()))}" for cells in parts]
    ends = [name + seed * (names.count(name) > 1) for name, seed in zip(names, seeds)]
    return [f" ({end})" * (len(parts) > 1) for end in ends]


def of_part(
    part: Users,
    cells: pd.DataFrame,
    kept: pd.DataFrame,
    radius: float,
    metric: str,
    where: str,
    *,
    bigger: bool,
    slices: bool,
) -> list[str]:
    """Return the parts of the report on one set of users, at the radius of the verdict; `where` ends the headings."""
    found: list[str] = []
    if metric in part.metrics:
        scores = by_cell(part.values[:, part.metrics.index(metric)], cells)
        attack = hardest(kept[kept.index.isin(cells["defense"], level="defense")], radius)
        found += significance(scores, metric, attack, radius, where)
        if slices and (at := at_radius(scores, attack, radius)):
            found += [f"### Which users lose?{where}", slice_table(part, at, metric, bigger=bigger)]
            found += [f"Mean {metric.upper()}, clean -> under {attack_title(attack)} at radius {radius:g} (kept)."]
    found += [f"### How much of the top {part.k} stays?{where}", overlap_table(by_cell(part.overlap, cells))]
    return [*found, f"Mean over users of the share of the clean top {part.k} that is in the attacked top {part.k}."]


def by_cell(values: np.ndarray, cells: pd.DataFrame) -> pd.DataFrame:
    """Return values [C, U], means over seeds, as a row per (defense, attack, radius) and a column per user.

    NaN in one seed makes NaN.
    """
    index = pd.MultiIndex.from_frame(cells[CELL])
    return known_means(pd.DataFrame(values[cells.index], index=index, dtype=float), CELL)


def hardest(kept: pd.DataFrame, radius: float) -> str:
    """Return the attack that leaves the least at `radius`, on average over models."""
    means = kept[radius].groupby(level="attack", sort=False).mean()[gradient_attacks(kept)]
    return str(means.idxmin()) if means.notna().any() else str(means.index[0])


def at_radius(scores: pd.DataFrame, attack: str, radius: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the clean and the attacked scores [U] of each model that was attacked so."""
    return {
        name: (scores.loc[(name, attack, 0.0)].to_numpy(), scores.loc[(name, attack, radius)].to_numpy())
        for name in scores.index.unique("defense")
        if {(name, attack, 0.0), (name, attack, radius)} <= set(scores.index)
    }


def significance(scores: pd.DataFrame, metric: str, attack: str, radius: float, where: str) -> list[str]:
    """Return the tables of differences: what each attack does to each model, and between models."""
    losses = loss_rows(scores, radius)
    between = model_rows(scores, attack, radius)
    if not losses:
        return []
    name, count = metric.upper(), scores.shape[1]
    parts = [
        f"### Is the difference more than chance?{where}",
        difference_table(losses, ["defense", "attack", "clean", "attacked"]),
        f"{name} at radius {radius:g}, attacked - clean, over the same {count} users. Brackets: 95 % interval of a "
        f"paired bootstrap over users ({statistics.RESAMPLES} resamples). p: Wilcoxon's signed-rank test, two-sided, "
        "corrected for all rows of the table (Holm). Several seeds: each user's mean.",
    ]
    if between:
        parts += [
            difference_table(between, ["models", "attack", "first", "second"]),
            f"Second model - first, the same users, clean and at radius {radius:g}, where the models differ most on "
            "these data: for that choice p is not corrected.",
        ]
    return parts


Row = tuple[str, str, np.ndarray, np.ndarray]  # two names, and the scores [U] before and after


def loss_rows(scores: pd.DataFrame, radius: float) -> list[Row]:
    """Return clean and attacked scores of each model and attack."""
    attacks = scores.index.unique("attack")
    found = {attack: at_radius(scores, attack, radius) for attack in attacks}
    names = scores.index.unique("defense")
    return [(label(n), a, *found[a][n]) for n in names for a in attacks if n in found[a]]


def model_rows(scores: pd.DataFrame, attack: str, radius: float) -> list[Row]:
    """Return the scores of two models, clean and under the same attack."""
    found = at_radius(scores, attack, radius)
    names = list(found)
    pairs = list(combinations(names, 2)) if len(names) <= MANY else [(names[0], name) for name in names[1:]]
    return [
        (f"{label(one)} -> {label(other)}", kind, found[one][i], found[other][i])
        for one, other in pairs
        for i, kind in enumerate(("clean", attack))
    ]


def difference_table(rows: Sequence[Row], headers: Sequence[str]) -> str:
    """Return the Markdown table of paired differences, p corrected over its rows."""
    found = statistics.differences(np.stack([after - before for _, _, before, after in rows]))
    corrected = statistics.holm([difference.p for difference in found])
    lines = [
        [
            *(first, second, f"{before.mean():.4f}", f"{after.mean():.4f}"),
            f"{d.mean:+.4f} [{d.low:+.4f}, {d.high:+.4f}]",
            "<0.001" if p < 0.001 else f"{p:.3f}",
        ]
        for (first, second, before, after), d, p in zip(rows, found, corrected)
    ]
    return markdown(lines, [*headers, "difference", "p"])


def slice_table(part: Users, scores: dict[str, tuple[np.ndarray, np.ndarray]], metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of clean and attacked means by thirds of activity and of item popularity."""
    kinds = {
        ("least active", "middling", "most active"): (part.activity, "per user"),
        ("least popular items", "middling", "most popular items"): (part.popularity, "per item"),
    }
    lines = []
    for names, (values, unit) in kinds.items():
        for name, users in zip(names, statistics.thirds(values)):
            if users.any():
                low, high = (f"{round(float(end), 1):g}" for end in (values[users].min(), values[users].max()))
                pairs = [(clean[users].mean(), attacked[users].mean()) for clean, attacked in scores.values()]
                texts = [before_after(*pair, metric, bigger=bigger) for pair in pairs]
                lines.append([f"{name} ({low} to {high} {unit})", str(users.sum()), *texts])
    return markdown(lines, ["training interactions", "users", *map(label, scores)])


def before_after(clean: float, attacked: float, metric: str, *, bigger: bool) -> str:
    """Return both values and the share kept."""
    kept = shares(pd.DataFrame({0.0: [clean], 1.0: [attacked]}), bigger=bigger, metric=metric)[1.0].iloc[0]
    return f"{clean:.4f} -> {attacked:.4f} ({percent(kept)})"


def overlap_table(overlap: pd.DataFrame) -> str:
    """Return the Markdown table of the mean overlap of top-k lists at each attacked radius."""
    wide = by_radius(overlap.mean(axis=1))
    radii = sorted(radius for radius in wide.columns if radius > 0)
    lines = [[label(name), attack, *(percent(row[r]) for r in radii)] for (name, attack), row in wide.iterrows()]
    return markdown(lines, ["defense", "attack", *(f"radius {radius:g}" for radius in radii)])

"""Parts of the report on users: whom the attack hurts, and whether it is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from recbole_rawp.evaluation import statistics
from recbole_rawp.evaluation.users import Users
from recbole_rawp.report.scores import (
    by_level,
    common_variants,
    complete,
    known_means,
    label,
    models_on_data,
    named,
    percent,
    shares,
    shares_kept,
    telling_level,
    variant_title,
    within,
)
from recbole_rawp.report.tables import markdown
from recbole_rawp.threats.setting import CLEAN, Setting

MANY = 3  # models; of more, each is compared with the first only
CONDITION = ["defense", "threat", "level"]


@dataclass(frozen=True)
class View:
    """What the parts on users look at: a setting and a metric at one level.

    Attributes:
        kept: means of shares kept, see `scores.over_seeds`.
        level: where the models differ most.
    """

    setting: Setting
    metric: str
    bigger: bool
    kept: pd.DataFrame
    level: float

    @property
    def at(self) -> str:
        """Return the level in words."""
        return self.setting.at(self.level)


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
    kept, worst = shares_kept(frame, metric, bigger=bigger)
    level = telling_level(worst)
    if level is None:
        return []
    view = View(setting, metric, bigger, kept, level)
    tables = [(part, within(named(complete(pd.DataFrame(part.conditions)), like=frame), setting)) for part in parts]
    tables = [(part, conditions) for part, conditions in tables if not conditions.empty]
    found: list[str] = []
    for (part, conditions), where in zip(tables, told_apart([conditions for _, conditions in tables])):
        found += of_part(part, conditions, view, where, slices=slices)
    return found


def told_apart(parts: Sequence[pd.DataFrame]) -> list[str]:
    """Return the ends of the parts' headings: models and data sets if there are several, and seeds if these recur."""
    names = [models_on_data(conditions) for conditions in parts]
    seeds = [f", seed {', '.join(map(str, conditions['seed'].unique()))}" for conditions in parts]
    ends = [name + seed * (names.count(name) > 1) for name, seed in zip(names, seeds)]
    return [f" ({end})" * (len(parts) > 1) for end in ends]


def of_part(part: Users, conditions: pd.DataFrame, view: View, where: str, *, slices: bool) -> list[str]:
    """Return the parts of the report on one set of users, at the level of the verdict; `where` ends the headings."""
    found: list[str] = []
    if view.metric in part.metrics:
        scores = by_condition(part.values[:, part.metrics.index(view.metric)], conditions)
        variant = hardest(view.kept[view.kept.index.isin(conditions["defense"], level="defense")], view.level)
        found += significance(scores, view, variant, where)
        if slices and (pairs := at_level(scores, variant, view.level)):
            found += [f"### Which users lose?{where}", slice_table(part, pairs, view.metric, bigger=view.bigger)]
            found += [f"Mean {view.metric.upper()}, clean -> under {variant_title(variant)} at {view.at} (kept)."]
    overlap = by_condition(part.overlap, conditions)
    found += [f"### How much of the top {part.k} stays?{where}", overlap_table(overlap, view.setting)]
    return [*found, f"Mean over users of the share of the clean top {part.k} that is in the attacked top {part.k}."]


def by_condition(values: np.ndarray, conditions: pd.DataFrame) -> pd.DataFrame:
    """Return values [C, U], means over seeds, as a row per (defense, threat, level) and a column per user.

    NaN in one seed makes NaN.
    """
    index = pd.MultiIndex.from_frame(conditions[CONDITION])
    return known_means(pd.DataFrame(values[conditions.index], index=index, dtype=float), CONDITION)


def hardest(kept: pd.DataFrame, level: float) -> str:
    """Return the variant that leaves the least at `level`, on average over models."""
    means = kept[level].groupby(level="threat", sort=False).mean()[common_variants(kept)]
    return str(means.idxmin()) if means.notna().any() else str(means.index[0])


def at_level(scores: pd.DataFrame, variant: str, level: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the clean and the attacked scores [U] of each model that was attacked so."""
    return {
        name: (scores.loc[(name, variant, CLEAN)].to_numpy(), scores.loc[(name, variant, level)].to_numpy())
        for name in scores.index.unique("defense")
        if {(name, variant, CLEAN), (name, variant, level)} <= set(scores.index)
    }


def significance(scores: pd.DataFrame, view: View, variant: str, where: str) -> list[str]:
    """Return the tables of differences: what each variant does to each model, and between models."""
    losses = loss_rows(scores, view.level)
    between = model_rows(scores, variant, view.level)
    if not losses:
        return []
    name, count = view.metric.upper(), scores.shape[1]
    parts = [
        f"### Is the difference more than chance?{where}",
        difference_table(losses, ["defense", "threat", "clean", "attacked"]),
        f"{name} at {view.at}, attacked - clean, over the same {count} users. Brackets: 95 % interval of a "
        f"paired bootstrap over users ({statistics.RESAMPLES} resamples). p: Wilcoxon's signed-rank test, two-sided, "
        "corrected for all rows of the table (Holm). Several seeds: each user's mean.",
    ]
    if between:
        parts += [
            difference_table(between, ["models", "threat", "first", "second"]),
            f"Second model - first, the same users, clean and at {view.at}, where the models differ most on "
            "these data: for that choice p is not corrected.",
        ]
    return parts


Row = tuple[str, str, np.ndarray, np.ndarray]  # two names, and the scores [U] before and after


def loss_rows(scores: pd.DataFrame, level: float) -> list[Row]:
    """Return clean and attacked scores of each model and variant."""
    variants = scores.index.unique("threat")
    found = {variant: at_level(scores, variant, level) for variant in variants}
    names = scores.index.unique("defense")
    return [(label(n), v, *found[v][n]) for n in names for v in variants if n in found[v]]


def model_rows(scores: pd.DataFrame, variant: str, level: float) -> list[Row]:
    """Return the scores of two models, clean and under the same variant."""
    found = at_level(scores, variant, level)
    names = list(found)
    pairs = list(combinations(names, 2)) if len(names) <= MANY else [(names[0], name) for name in names[1:]]
    return [
        (f"{label(one)} -> {label(other)}", kind, found[one][i], found[other][i])
        for one, other in pairs
        for i, kind in enumerate(("clean", variant))
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


def overlap_table(overlap: pd.DataFrame, setting: Setting) -> str:
    """Return the Markdown table of the mean overlap of top-k lists at each attacked level."""
    wide = by_level(overlap.mean(axis=1))
    levels = [level for level in wide.columns if level != CLEAN]
    lines = [[label(name), variant, *(percent(row[x]) for x in levels)] for (name, variant), row in wide.iterrows()]
    return markdown(lines, ["defense", "threat", *map(setting.at, levels)])

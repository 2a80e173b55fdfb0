"""Makes the tables that an experiment declares, from records.

A record is a row with model, data set, defense, seed, threat, level, metric and value; level 0 is the clean model.
*Conditions* choose records: `{metric: ndcg@10, threat: [fgsm, bim]}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.errors import InputError
from recbole_rawp.evaluation.statistics import spread
from recbole_rawp.report import scores
from recbole_rawp.report.tables import markdown

RENAMED = {"attack": "threat", "radius": "level"}  # columns, and values, of the older files
REWORDED = {
    "threat": {"random": "noise"},
    "scope": {"global": "universal"},
    "unit": {"relative": "relative radius", "absolute": "absolute radius"},
}
FORMS = {"value": ".4f", "share": ".0%", "ratio": ".1%", "cost": ".1%", "count": "d"}

Conditions = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """What a column says of the records of its row.

    Attributes:
        text: the key of the row whose title stands here, or `metric`, the row's condition; then nothing else counts.
        title: the header; `{level:g}` is replaced.
        level: of the threat, 0 for clean, or `mean`: over all above 0.
        levels: a column for each of these.
        where: further conditions. Of several threats the strongest counts, seed by seed and level by level.
        show: `value`, `share` kept of the clean one, `ratio` to the table's baseline, `cost` (1 - ratio), or the
            `count` of seeds.
        of: the column of the records that holds the values.
        spread: `sd`, `range` or `interval` (Student's, 95 %) over seeds, or `none`: the mean alone.
        form: a format, if not that of `FORMS`.
    """

    text: str = ""
    title: str = ""
    level: float | str = 0.0
    levels: Sequence[float] = ()
    where: Conditions = field(default_factory=dict)
    show: str = "value"
    of: str = "value"
    spread: str = "sd"
    form: str = ""


@dataclass(frozen=True)
class Table:
    """A table: a row for each combination of the entries of `rows` that has records, see `combinations`.

    Attributes:
        name: of its marker; `{key}` is replaced by the title of that entry of `each`.
        each: a table for each combination of these.
        once: so many first cells are left empty where they repeat those above.
        baseline: conditions that make a row the one that `ratio` and `cost` compare with.
    """

    name: str
    rows: Mapping[str, Any]
    columns: Sequence[Column]
    where: Conditions = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    once: int = 0
    baseline: Conditions = field(default_factory=dict)


def read(file: Path) -> pd.DataFrame:
    """Return the records of a file bit for bit, under today's names. The only place that knows of older ones."""
    frame = pd.read_csv(file, float_precision="round_trip", keep_default_na=False, na_values={"value": ["", "nan"]})
    if "ndcg@10" in frame:  # repair-*.csv: `attack` holds the radius, too
        words = frame["attack"].str.partition(" ")
        frame = frame.assign(attack=words[0], radius=words[2].replace("", "0").astype(float), metric="ndcg@10")
        frame = frame.rename(columns={"ndcg@10": "value"}).replace({"model": {"neumf": "NeuMF", "sasrec": "SASRec"}})
    frame = frame.rename(columns=RENAMED)
    return frame.assign(**{name: frame[name].replace(words) for name, words in REWORDED.items() if name in frame})


def combinations(keys: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], Conditions]]:
    """Yield titles and conditions of each combination, the last key's entries fastest.

    The entries of a key are a list of its values, or titles with a value, a list of values, or conditions.
    """
    entries = [
        [(key, title, own) for title, own in (named if isinstance(named, dict) else dict(zip(named, named))).items()]
        for key, named in keys.items()
    ]
    for chosen in product(*entries):
        conditions: Conditions = {}
        for key, _, own in chosen:
            conditions |= own if isinstance(own, dict) else {key: own}
        yield {key: str(title) for key, title, _ in chosen}, conditions


def select(frame: pd.DataFrame, conditions: Conditions) -> pd.DataFrame:
    """Return the records that meet the conditions."""
    for name, wanted in conditions.items():
        frame = frame[frame[name].isin(wanted if isinstance(wanted, list) else [wanted])]
    return frame


def expand(declared: Any) -> Iterator[Any]:
    """Yield the table, or picture, for each combination of its `each`."""
    for titles, own in combinations(declared.each):
        yield replace(declared, name=declared.name.format(**titles), where={**declared.where, **own}, each={})


def columns(*declared: Mapping[str, Any]) -> list[Column]:
    """Return the columns, one for each level of those with `levels`."""
    found = []
    for column in (Column(**own) for own in declared):
        for level in column.levels or (column.level,):
            title = column.title or column.text or "{level:g}"
            found.append(replace(column, level=level, title=title.format(level=level)))
    return found


def render(table: Table, frame: pd.DataFrame) -> str:
    """Return a table as Markdown; columns without any value are left out."""
    frame, own = select(frame, table.where), table.columns
    lines: list[list[str]] = []
    for titles, conditions in combinations(table.rows):
        if len(select(frame, conditions)):
            lines.append([titles.get(c.text) or cell(frame, {**table.where, **conditions}, c, table) for c in own])
    filled = [number for number, cells in enumerate(zip(*lines)) if any(cells)]
    lines = [[line[number] for number in filled] for line in lines]
    shown = [
        [""] * table.once + line[table.once :] if above and above[: table.once] == line[: table.once] else line
        for above, line in zip([[], *lines], lines)
    ]
    return markdown(shown, [own[number].title for number in filled])


def cell(frame: pd.DataFrame, conditions: Conditions, column: Column, table: Table) -> str:
    """Return what a column says of the records that meet the conditions; nothing where there are none."""
    if column.text:
        return str(conditions[column.text]).upper()
    asked = {**conditions, **column.where}
    found = at(by_level(select(frame, asked), column), column.level)
    if column.show in ("ratio", "cost"):
        base = {**asked, **table.baseline}
        found = (found / at(by_level(select(frame, base), column), column.level)).dropna()
        if column.show == "cost":
            found = (1 - found)[: 0 if base == asked else None]
    return words(found, column) if len(found) else ""


def by_level(rows: pd.DataFrame, column: Column) -> pd.DataFrame:
    """Return the values, or the shares kept, of one metric that is the better the larger: seeds by levels."""
    wide = rows.assign(**{column.of: pd.to_numeric(rows[column.of])})
    wide = wide.groupby(["seed", "level"])[column.of].min().unstack("level")
    metrics = list(rows["metric"].unique())
    if len(metrics) > 1:
        raise InputError(f"table: {column} holds {', '.join(metrics)}. Name one metric in `where` or `rows`.")
    return scores.shares(wide, bigger=True, metric=metrics[0]) if column.show == "share" and metrics else wide


def at(wide: pd.DataFrame, level: float | str) -> pd.Series:
    """Return the values of the seeds at a level, or their means over all levels above 0."""
    if level == "mean":
        return wide.drop(columns=0.0, errors="ignore").mean(axis=1, skipna=False).dropna()
    return wide[level].dropna() if level in wide else pd.Series(dtype=float)


def words(found: pd.Series, column: Column) -> str:
    """Return the mean over seeds, and how far they spread."""
    seen, form = spread(found), column.form or FORMS[column.show]
    if column.show == "count":
        return format(seen.count, form)
    mean = format(seen.mean, form)
    if column.spread == "range":
        return f"{mean} ({format(found.min(), form)} to {format(found.max(), form)})"
    if column.spread == "none" or seen.count < 2:
        return mean
    return f"{mean} ± {format(seen.sd if column.spread == 'sd' else seen.high - seen.mean, form)}"

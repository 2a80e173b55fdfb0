"""Tables of a comparison: defenses of one model on one data set, means over seeds, differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import pandas as pd
from tabulate import tabulate

from recbole_rawp.evaluation.statistics import spread
from recbole_rawp.report.scores import known_means, label, telling_level
from recbole_rawp.report.tables import markdown


@dataclass(frozen=True)
class ModelOnData:
    """The finished runs of one model on one data set, a row each, in which defenses compare."""

    model: str
    dataset: str
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """Return both in words."""
        return f"{self.model} on {self.dataset}"

    @property
    def folder(self) -> str:
        """Return where its own pictures and curves lie."""
        return f"reports/{self.model}-{self.dataset}"

    @property
    def link(self) -> str:
        """Return the same as a link names it, whatever the data set is called."""
        return quote(self.folder)

    @property
    def metric(self) -> str:
        """Return the headline metric, as tables print it."""
        return str(self.rows["metric"].iloc[0]).upper()

    @property
    def noun(self) -> str:
        """Return what a level is called."""
        return str(self.rows["noun"].iloc[0])

    @property
    def bigger(self) -> bool:
        """Return whether more of it is better."""
        return bool(self.rows["bigger"].iloc[0])

    @property
    def levels(self) -> list[float]:
        """Return the attacked levels, also where all scores are NaN."""
        return sorted(float(name.partition("@")[2]) for name in self.columns if name.startswith("threat@"))

    @property
    def columns(self) -> list[str]:
        """Return the columns that hold something; models with other attacks have others."""
        return list(self.rows.dropna(axis=1, how="all").columns)

    @property
    def kept(self) -> pd.DataFrame:
        """Return the shares kept, a row per defense and a column per level: means over seeds, NaN if one is NaN."""
        names = [f"kept@{level:g}" for level in self.levels]
        return known_means(self.rows.set_index("defense")[names].set_axis(self.levels, axis=1).astype(float), 0)

    @property
    def telling(self) -> float | None:
        """Return the level where the defenses differ most in what they keep; None if none was attacked."""
        return telling_level(self.kept)

    def of(self, defense: str) -> pd.DataFrame:
        """Return the rows of one defense."""
        return self.rows[self.rows["defense"] == defense]

    @property
    def defenses(self) -> list[str]:
        """Return the defenses, in order."""
        return list(self.rows["defense"].unique())


def points(group: ModelOnData) -> dict[str, np.ndarray]:
    """Return the clean and the robust score at the telling level of each defense and seed, [seeds, 2]."""
    columns = ["clean", f"robust@{group.telling:g}"]
    return {name: group.of(name)[columns].to_numpy(float) for name in group.defenses}


def cells(group: ModelOnData) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, one per defense, and its headers."""
    telling = group.telling
    noise = [f"noise@{telling:g}"] if telling is not None and f"noise@{telling:g}" in group.columns else []
    robust = [f"robust@{level:g}" for level in group.levels]
    lines = []
    for name in group.defenses:
        own = group.of(name)
        clean = spread(own["clean"].tolist())
        interval = f" [{clean.low:.4f}, {clean.high:.4f}]" * (clean.count > 1)
        line = [label(name), str(len(own)), with_sd(own["clean"]) + interval]
        line += [with_sd(own[column]) for column in (*robust, *noise)]
        passed, broken = int(own["checks_passed"].sum()), int(own["checks_failed"].sum())
        lines.append([*line, time_ratio(group, own), f"{passed} of {passed + broken}"])
    attacked = [f"{group.noun} {level:g}" for level in group.levels] + [f"noise {telling:g}" for _ in noise]
    return lines, ["defense", "seeds", f"clean {group.metric}", *attacked, "time", "checks passed"]


def with_sd(values: pd.Series) -> str:
    """Return mean ± standard deviation over seeds; the mean alone of one."""
    found = spread(values.tolist())
    return f"{found.mean:.4f}" + f" ± {found.sd:.4f}" * (found.count > 1)


def time_ratio(group: ModelOnData, own: pd.DataFrame) -> str:
    """Return the training time, as a multiple of plain's with the same seed, mean over seeds; - without such."""
    plain = group.of("none").set_index("seed")["seconds"]
    ratios = (own.set_index("seed")["seconds"] / plain).dropna()
    return f"{ratios.mean():.2f}" if len(ratios) else "-"


def numbers(group: ModelOnData) -> pd.DataFrame:
    """Return count, mean, deviation and interval over seeds of every score of every defense."""
    met = {f"{score}@{level:g}" for score in ("robust", "kept") for level in group.levels}
    met |= {"clean", *(name for name in group.columns if name.startswith("noise@"))}
    names = [name for name in group.rows if name in met]
    return pd.DataFrame(
        {"model": group.model, "dataset": group.dataset, "metric": group.metric.lower(), "defense": name}
        | {"score": column.partition("@")[0], "level": float(column.partition("@")[2] or 0)}
        | vars(spread(group.of(name)[column].astype(float).tolist()))
        for name in group.defenses
        for column in names
    )


def latex(groups: Sequence[ModelOnData]) -> str:
    """Return a LaTeX tabular per model and data set (package booktabs)."""
    texts = [r"% Means over seeds ± standard deviation, in brackets a 95 % interval (t). \usepackage{booktabs}"]
    for group in groups:
        texts.append(f"% {group.title}: {group.metric} under the strongest attack on {group.rows['attacked'].iloc[0]}")
        texts.append(tabulate(*cells(group), tablefmt="latex_booktabs", disable_numparse=True))
    return "\n".join(texts) + "\n"


def test_table(tests: pd.DataFrame) -> str:
    """Return the Markdown table of differences."""
    lines = [
        [
            *(
                f"{label(row['against'])} -> {label(row['defense'])}",
                f"{row['level']:g}" if row["level"] else "clean",
            ),
            *(f"{row['before']:.4f}", f"{row['after']:.4f}"),
            f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
        ]
        for row in tests.to_dict("records")
    ]
    return markdown(lines, ["defenses", "level", "first", "second", "difference", "p"])

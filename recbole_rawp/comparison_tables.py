"""Which numbers does a comparison show?  Defenses of one model on one data set: means over seeds, differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tabulate import tabulate

from recbole_rawp.curves import label, telling_radius
from recbole_rawp.statistics import spread
from recbole_rawp.tables import markdown


@dataclass(frozen=True)
class Place:
    """The finished runs of one model on one data set, a row each, in which defenses compare."""

    model: str
    dataset: str
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """Return the place in words."""
        return f"{self.model} on {self.dataset}"

    @property
    def folder(self) -> str:
        """Return where its own pictures and curves lie."""
        return f"reports/{self.model}-{self.dataset}"

    @property
    def metric(self) -> str:
        """Return the headline metric, as tables print it."""
        return str(self.rows["metric"].iloc[0]).upper()

    @property
    def bigger(self) -> bool:
        """Return whether more of it is better."""
        return bool(self.rows["bigger"].iloc[0])

    @property
    def radii(self) -> list[float]:
        """Return the attacked radii."""
        names = self.rows.dropna(axis=1, how="all").columns
        return sorted(float(name.partition("@")[2]) for name in names if name.startswith("robust@"))

    @property
    def telling(self) -> float | None:
        """Return the radius where the defenses differ most in what they keep; None if none was attacked."""
        kept = self.rows.groupby("defense", sort=False)[[f"kept@{radius:g}" for radius in self.radii]].mean()
        return telling_radius(kept.set_axis(self.radii, axis=1))

    def of(self, defense: str) -> pd.DataFrame:
        """Return the rows of one defense."""
        return self.rows[self.rows["defense"] == defense]

    @property
    def defenses(self) -> list[str]:
        """Return the defenses, in order."""
        return list(self.rows["defense"].unique())


def points(place: Place) -> dict[str, np.ndarray]:
    """Return the clean and the robust score at the telling radius of each defense and seed, [seeds, 2]."""
    columns = ["clean", f"robust@{place.telling:g}"]
    return {name: place.of(name)[columns].to_numpy(float) for name in place.defenses}


def cells(place: Place) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, one per defense, and its headers."""
    telling = place.telling
    noise = [f"noise@{telling:g}"] if telling is not None and f"noise@{telling:g}" in place.rows else []
    robust = [f"robust@{radius:g}" for radius in place.radii]
    lines = []
    for name in place.defenses:
        own = place.of(name)
        clean = spread(own["clean"].tolist())
        interval = f" [{clean.low:.4f}, {clean.high:.4f}]" * (clean.count > 1)
        line = [label(name), str(len(own)), with_sd(own["clean"]) + interval]
        line += [with_sd(own[column]) for column in (*robust, *noise)]
        passed, broken = int(own["checks_passed"].sum()), int(own["checks_failed"].sum())
        lines.append([*line, time_ratio(place, own), f"{passed} of {passed + broken}"])
    attacked = [f"radius {radius:g}" for radius in place.radii] + [f"noise {telling:g}" for _ in noise]
    return lines, ["defense", "seeds", f"clean {place.metric}", *attacked, "time", "checks passed"]


def with_sd(values: pd.Series) -> str:
    """Return mean ± standard deviation over seeds; the mean alone of one."""
    found = spread(values.tolist())
    return f"{found.mean:.4f}" + f" ± {found.sd:.4f}" * (found.count > 1)


def time_ratio(place: Place, own: pd.DataFrame) -> str:
    """Return the training time, as a multiple of plain's with the same seed, mean over seeds; - without such."""
    plain = place.of("none").set_index("seed")["seconds"]
    ratios = (own.set_index("seed")["seconds"] / plain).dropna()
    return f"{ratios.mean():.2f}" if len(ratios) else "-"


def numbers(place: Place) -> pd.DataFrame:
    """Return count, mean, deviation and interval over seeds of every score of every defense."""
    names = [name for name in place.rows if name == "clean" or name.partition("@")[0] in ("robust", "noise", "kept")]
    return pd.DataFrame(
        {"model": place.model, "dataset": place.dataset, "metric": place.metric.lower(), "defense": name}
        | {"score": column.partition("@")[0], "radius": float(column.partition("@")[2] or 0)}
        | vars(spread(place.of(name)[column].astype(float).tolist()))
        for name in place.defenses
        for column in names
    )


def latex(places: Sequence[Place]) -> str:
    """Return a LaTeX tabular per model and data set (package booktabs)."""
    texts = [r"% Means over seeds ± standard deviation, in brackets a 95 % interval (t). \usepackage{booktabs}"]
    for place in places:
        texts.append(f"% {place.title}: {place.metric} under the strongest attack on {place.rows['attacked'].iloc[0]}")
        texts.append(tabulate(*cells(place), tablefmt="latex_booktabs", disable_numparse=True))
    return "\n".join(texts) + "\n"


def test_table(tests: pd.DataFrame) -> str:
    """Return the Markdown table of differences."""
    lines = [
        [
            *(
                f"{label(row['against'])} -> {label(row['defense'])}",
                f"{row['radius']:g}" if row["radius"] else "clean",
            ),
            *(f"{row['before']:.4f}", f"{row['after']:.4f}"),
            f"{row['mean']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            "<0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}",
        ]
        for row in tests.to_dict("records")
    ]
    return markdown(lines, ["defenses", "radius", "first", "second", "difference", "p"])

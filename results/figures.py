"""Draws the pictures that an experiment declares, from records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import pandas as pd

from recbole_rawp.report.pictures import canvas, styles
from results.tables import Column, Conditions, by_level, combinations, select


@dataclass(frozen=True)
class Figure:
    """A picture: a panel for each combination of `panels`, a line for each defense of `lines`, against the level.

    Attributes:
        name: of the file; with `each` and `where` as a table's.
        show: `value`, with the clean one dotted, or `share`.
        x, y: what stands at the axes.
        height: panels one above the other.
    """

    name: str
    panels: Mapping[str, Any]
    lines: Mapping[str, Any]
    show: str
    x: str
    y: str
    where: Conditions = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    height: int = 2


def draw(figure: Figure, frame: pd.DataFrame) -> Any:
    """Return the picture: means over seeds, bands from the lowest to the highest; empty panels are left out."""
    frame = select(frame, figure.where)
    parts = [(", ".join(titles.values()), select(frame, own)) for titles, own in combinations(figure.panels)]
    parts = [(title, part) for title, part in parts if len(part)]
    width = ceil(len(parts) / figure.height)
    picture = canvas.blank(3.3 * width + 1, 3 * figure.height + 0.7)
    sharey = "col" if figure.show == "value" else "all"
    grid = picture.subplots(figure.height, width, sharex=True, sharey=sharey, squeeze=False)
    known: dict[str, Any] = {}
    for axes, (title, part) in zip(grid.flat, parts):
        axes.set_title(title, fontsize=9)
        known |= panel(axes, part, figure)
    for axes in grid.flat[len(parts) :]:
        axes.axis("off")
    model = frame["model"].iloc[0] if frame["model"].nunique() == 1 else None
    picture.legend(known.values(), known, loc="outside upper center", ncols=len(known), frameon=False, title=model)
    picture.supxlabel(figure.x, fontsize=10)
    picture.supylabel(figure.y, fontsize=10)
    return picture


def panel(axes: Any, part: pd.DataFrame, figure: Figure) -> dict[str, Any]:
    """Draw a line, and a band over seeds, for each defense that has records; return them by title."""
    canvas.tidy(axes)
    axes.set_xscale("log")
    levels = [level for level in sorted(part["level"].unique()) if level > 0]
    axes.set_xticks([level for level in levels if f"{level:e}".partition("e")[0].rstrip("0.") in ("1", "2", "5")])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    drawn = {}
    for titles, own in combinations(figure.lines):
        wide = by_level(select(part, own), Column(show=figure.show))
        if not wide.empty:
            colour, marker = styles.STYLES[own["defense"]]
            at = wide[[level for level in levels if level in wide]]
            drawn[titles["defense"]] = axes.plot(at.mean(), color=colour, marker=marker, markersize=4)[0]
            axes.fill_between(at.columns, at.min(), at.max(), color=colour, alpha=0.15, linewidth=0)
            if figure.show == "value":
                axes.axhline(wide[0.0].mean(), color=colour, linewidth=0.6, linestyle=":")
    return drawn

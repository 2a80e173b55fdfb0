"""Draws curves over the level, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.records import chance
from recbole_rawp.files import whole, write_text
from recbole_rawp.report.pictures import interactive
from recbole_rawp.report.pictures.canvas import INTERACTIVE, blank, tidy, write
from recbole_rawp.report.pictures.styles import DOTS, GREY, Styles, dashed, styled
from recbole_rawp.report.scores import (
    by_threat,
    is_control,
    label,
    models_on_data,
    over_seeds,
    settings_of,
    shares,
    variant_title,
)

CROWDED = 6  # lines in one panel; of more, each attack gets panels of its own


def save_curves(frame: pd.DataFrame, metric: str, folder: Path, stem: str, *, bigger: bool) -> None:
    """Write the picture of the frame's first setting as `stem`.png, .svg and .plotly.json, each whole or not at all."""
    figure = draw(frame, metric, bigger=bigger)
    whole(folder / f"{stem}.png", lambda path: write(figure, path, "png"))
    whole(folder / f"{stem}.svg", lambda path: write(figure, path, "svg"))
    write_text(folder / f"{stem}{INTERACTIVE}", interactive.draw(frame, metric, bigger=bigger))


def plot(frame: pd.DataFrame, metric: str, path: Path, *, bigger: bool) -> None:
    """Write the picture of the frame's first setting as a PNG."""
    write(draw(frame, metric, bigger=bigger), path, "png")


def draw(frame: pd.DataFrame, metric: str, *, bigger: bool) -> Any:
    """Return a figure of the metric, and of the share of it kept, against the level, in the frame's first setting.

    A line per model and variant. Over several seeds it is the mean, and a band reaches from the lowest to the highest.
    More than `CROWDED` lines: a column of panels per variant, with noise of the same norm in each.
    """
    wide = by_threat(frame, metric)
    kept = shares(wide, bigger=bigger, metric=metric)
    if settings_of(frame)[0].unit == "format":  # no level but one
        return bars(frame, kept, metric)
    styles, columns = styled(wide.index.unique("defense")), panels(wide)
    alone, every = len(columns) == 1, list(wide.index.unique("threat"))
    dashes = dashed(every) if alone else {name: DOTS if is_control(name) else "-" for name in every}
    figure = blank(10, 4.6) if alone else blank(max(3.2 * len(columns), 8), 7)
    grid = figure.subplots(1, 2)[:, None] if alone else figure.subplots(2, len(columns), sharey="row", sharex=True)
    for variants, (upper, lower) in zip(columns, grid.T):
        for axes, values in ((upper, wide), (lower, kept)):
            lines(axes, values[values.index.isin(variants, level="threat")], styles, dashes)
        if not alone:
            upper.set_title(fill(variant_title(variants[0]), 30), fontsize=10)
    setting = settings_of(frame)[0]
    label_axes(grid, metric)
    if setting.words.logarithmic and len(wide.columns) > 1:
        for axes in grid.flat:
            axes.set_xscale("symlog", linthresh=float(wide.columns[1]), linscale=0.5)
            axes.set_xlim(-0.1 * float(wide.columns[1]), 1.5 * float(wide.columns[-1]))
    for axes in grid.flat if alone else grid[1]:
        axes.set_xlabel(fill(f"{setting.words.noun}: {setting.axis}", 60 if alone else 36), fontsize=10)
    figure.suptitle(
        f"{models_on_data(frame)}: {metric.upper()}{' under attack' * setting.words.adversary}\n{setting.title}",
        fontsize=11,
    )
    named = {variant_title(name): dash for name, dash in dashes.items()}
    if not alone:
        controls = {title: dash for title, dash in named.items() if dash == DOTS}
        named = {"attack named above": "-"} | controls if controls else {}
    add_legend(figure, styles, named)
    return figure


def bars(frame: pd.DataFrame, kept: pd.DataFrame, metric: str) -> Any:
    """Return a figure with a group of bars per variant, a bar per model: the share kept; whiskers span the seeds."""
    from matplotlib.ticker import PercentFormatter

    styles, variants = styled(kept.index.unique("defense")), list(kept.index.unique("threat"))
    figure = blank(max(6.0, 1.2 * len(variants)), 4.6)
    axes, width = figure.subplots(), 0.8 / len(styles)
    for number, (name, (colour, _)) in enumerate(styles.items()):
        own = kept.loc[name].iloc[:, -1].groupby(level="threat", sort=False)
        mean = own.mean().reindex(variants)
        spans = mean - own.min().reindex(variants), own.max().reindex(variants) - mean
        spread = [list(span.clip(lower=0)) for span in spans]  # a mean of equals may lie beyond them by rounding
        places = [place + (number - (len(styles) - 1) / 2) * width for place in range(len(variants))]
        axes.bar(places, mean, width, yerr=spread, color=colour, label=label(name), error_kw={"linewidth": 0.8})
    axes.axhline(1.0, color=GREY, linestyle=":")
    axes.set_xticks(range(len(variants)), [variant_title(name) for name in variants])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel(interactive.KEPT)
    tidy(axes)
    axes.set_title(f"{models_on_data(frame)}: {metric.upper()}\n{settings_of(frame)[0].title}", fontsize=11)
    axes.legend(frameon=False)
    return figure


def lines(axes: Any, values: pd.DataFrame, styles: Styles, dashes: Mapping[str, Any]) -> None:
    """Draw a line, and a band over seeds, per model and variant; a level that nobody measured is left out."""
    for (defense, variant), seeds in values.groupby(level=["defense", "threat"], sort=False):
        seeds = seeds.dropna(axis=1, how="all")
        colour, marker = styles[defense]
        dash = dashes[variant]
        axes.plot(seeds.columns, seeds.mean(), color=colour, marker=marker, linestyle=dash, markersize=5)
        axes.fill_between(seeds.columns, seeds.min(), seeds.max(), color=colour, alpha=0.15, linewidth=0)


def label_axes(grid: Any, metric: str) -> None:
    """Name the axes: the metric (upper or left; with what chance scores), the share kept. Both start at 0, or below."""
    from matplotlib.ticker import PercentFormatter

    for row in grid:
        lowest = min(axes.dataLim.y0 for axes in row)  # infinite where there is no data
        row[0].set_ylim(bottom=1.1 * lowest if -math.inf < lowest < 0 else 0.0)
    for axes in grid.flat:
        tidy(axes)
    if zero := chance(metric):
        for axes in grid[0]:
            axes.axhline(zero, color=GREY, linestyle=":", linewidth=1)
        grid[0][0].annotate(
            "chance", (1, zero), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY
        )
    grid[0][0].set_ylabel(metric.upper())
    grid[1][0].set_ylabel(interactive.KEPT)
    for axes in grid[1]:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def add_legend(figure: Any, styles: Styles, dashes: Mapping[str, Any]) -> None:
    """Explain colours and markers (models) and dashes (variants) below the panels, where no data is."""
    from matplotlib.lines import Line2D

    models = [Line2D([], [], color=c, marker=m, label=label(name)) for name, (c, m) in styles.items()]
    kinds: list[Any] = [Line2D([], [], color=GREY, linestyle=dash, label=title) for title, dash in dashes.items()]
    blank = [Line2D([], [], linestyle="", label="")] * abs(len(models) - len(kinds))
    shorter = models if len(models) < len(kinds) else kinds
    shorter.extend(blank)  # one column of models, one of variants
    figure.legend(handles=[*models, *kinds], loc="outside lower center", ncols=2, frameon=False, handlelength=3.5)


def panels(wide: pd.DataFrame) -> list[list[str]]:
    """Return the variants of each column of panels: all in one, or, where that is crowded, each beside the noise."""
    variants = list(wide.index.unique("threat"))
    climbing = [name for name in variants if not is_control(name)]
    if len(over_seeds(wide)) <= CROWDED or len(climbing) < 2:
        return [variants]
    return [[name, *filter(is_control, variants)] for name in climbing]

"""Draws the curves that the page shows: as those for print, with each point's figures under the pointer.

A figure is plotly's JSON, `NAME.plotly.json`; `plotly.io.read_json` reads it. Names stay text in it.
"""

from __future__ import annotations

from html import escape
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.records import chance
from recbole_rawp.report.pictures.styles import DOTS, GREY, dashed, styled
from recbole_rawp.report.scores import by_threat, label, percent, settings_of, shares, variant_title

SYMBOLS = {
    "o": "circle",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "X": "x",
    "P": "cross",
    "D": "diamond",
    "d": "diamond-tall",
    "s": "square",
    "p": "pentagon",
    "h": "hexagon",
    "*": "star",
}
PANEL, LINE = 300, 24  # pixels: height of a panel, and of a line of the legend
KEPT = "share of the clean score kept"


def draw(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the figure of the frame's first setting, as `curves.draw` has it: bars for formats, else curves."""
    wide = by_threat(frame, metric)
    kept = shares(wide, bigger=bigger, metric=metric)
    kind = bars if settings_of(frame)[0].unit == "format" else curves
    return str(kind(frame, wide, kept, metric).to_json())


def curves(frame: pd.DataFrame, wide: pd.DataFrame, kept: pd.DataFrame, metric: str) -> Any:
    """Return two panels, the metric above and the share kept below; a click in the legend hides a line in both."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    words, setting = settings_of(frame)[0].words, settings_of(frame)[0]
    styles, dashes = styled(wide.index.unique("defense")), dashed(wide.index.unique("threat"))
    groups = list(wide.groupby(level=["defense", "threat"], sort=False))
    for (defense, variant), seeds in groups:
        colour, marker = styles[defense]
        name = escape(f"{label(defense)}: {variant}")
        look = {
            "line": {"color": colour, "dash": dash(dashes[variant])},
            "marker": {"symbol": SYMBOLS[marker], "size": 8},
        }
        seeds = seeds.dropna(axis=1, how="all")
        own = kept.loc[seeds.index, seeds.columns]
        levels = [f"{level:g}" for level in seeds.columns] if words.logarithmic else list(seeds.columns)
        texts = [
            f"{name}<br>{escape(words.at(level))}: {metric.upper()} {seeds[level].mean():.4f}, "
            f"{percent(own[level].mean())} of the clean score" + between(own[level])
            for level in seeds.columns
        ]
        for row, values in ((1, seeds), (2, own)):
            shared = {"legendgroup": name, "x": levels, "row": row, "col": 1}
            figure.add_scatter(
                y=values.mean().tolist(),
                name=name,
                showlegend=row == 1,
                hovertext=texts,
                hoverinfo="text",
                mode="lines+markers",
                **look,
                **shared,
            )
            if len(values) > 1:
                band(figure, values, colour, shared)
    if zero := chance(metric):
        figure.add_hline(
            y=zero,
            line={"color": GREY, "dash": "dot", "width": 1},
            row=1,
            col=1,
            annotation={"text": "chance", "font": {"color": GREY}},
        )
    ticks = {"type": "category"} if words.logarithmic else {"tickvals": list(wide.columns)}
    figure.update_xaxes(**ticks)
    figure.update_xaxes(title={"text": escape(f"{words.noun}: {setting.axis}")}, row=2)
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title={"text": metric.upper()}, row=1)
    figure.update_yaxes(title={"text": KEPT}, tickformat=".0%", row=2)
    return framed(figure, 2 * PANEL, len(groups))


def band(figure: Any, values: pd.DataFrame, colour: str, shared: dict[str, Any]) -> None:
    """Fill from the lowest to the highest seed, without a word in the legend or under the pointer."""
    quiet = {"mode": "lines", "line": {"width": 0, "color": colour}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(y=values.max().tolist(), **quiet, **shared)
    figure.add_scatter(y=values.min().tolist(), fill="tonexty", fillcolor=faint(colour), **quiet, **shared)


def bars(frame: pd.DataFrame, wide: pd.DataFrame, kept: pd.DataFrame, metric: str) -> Any:
    """Return a group of bars per variant, a bar per model: the share kept; whiskers span the seeds."""
    from plotly.graph_objects import Figure

    figure, styles = Figure(), styled(kept.index.unique("defense"))
    variants = list(kept.index.unique("threat"))
    for name, (colour, _) in styles.items():
        own = kept.loc[name].iloc[:, -1].groupby(level="threat", sort=False)
        mean = own.mean().reindex(variants)
        beyond = own.max().reindex(variants) - mean, mean - own.min().reindex(variants)
        spread = dict(zip(("array", "arrayminus"), (list(span.clip(lower=0)) for span in beyond)))
        figure.add_bar(
            x=[escape(variant_title(variant)) for variant in variants],
            y=list(mean),
            name=escape(label(name)),
            marker={"color": colour},
            error_y={"symmetric": False, **spread},
        )
    figure.add_hline(y=1, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_yaxes(title={"text": KEPT}, tickformat=".0%")
    return framed(figure, PANEL, len(styles))


def framed(figure: Any, height: int, entries: int) -> Any:
    """Give a figure its height, with room for a legend below it that a narrow window makes long, and plain looks."""
    figure.update_layout(
        template="simple_white",
        height=height + LINE * (entries + 4),
        margin={"l": 60, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"align": "left"},
    )
    figure.update_yaxes(showgrid=True)
    return figure


def between(seeds: pd.Series) -> str:
    """Return the range over seeds, in brackets; nothing of one seed."""
    return f" ({percent(seeds.min())} to {percent(seeds.max())})" if len(seeds) > 1 else ""


def dash(style: Any) -> str:
    """Return a dash of matplotlib's in plotly's words."""
    named = {"-": "solid", "--": "dash", "-.": "dashdot", DOTS: "dot"}
    return named[style] if isinstance(style, str) else ",".join(f"{2 * length}px" for length in style[1])


def faint(colour: str) -> str:
    """Return a colour `#rrggbb` at 15 % opacity."""
    return "rgba({}, {}, {}, 0.15)".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))

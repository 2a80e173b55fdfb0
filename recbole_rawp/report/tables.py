"""What do the tables say?  Values and shares kept at each radius, for Markdown and LaTeX; self-checks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from tabulate import tabulate

from recbole_rawp.evaluation.checks import FAILED, Check
from recbole_rawp.report.curves import (
    NOISE,
    curves,
    label,
    over_seeds,
    percent,
    places,
    series,
    settings_of,
    shares,
    strongest,
    tried,
    within,
)

FALLS = (0.9, 0.5)  # shares of the clean score that the overview looks for


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a Markdown table; a bar in a cell is escaped."""
    escaped = [[str(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="github", disable_numparse=True)


def table(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of the frame's first setting: values, and shares kept, at each radius."""
    headers, rows = cells(frame, metric, bigger=bigger)
    return markdown(rows, headers)


def latex(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return a LaTeX tabular per setting (package booktabs), each after a comment that says what it is."""
    texts = [rf"% {places(frame)}: {metric.upper()}, in brackets the share kept. \usepackage{{booktabs}}"]
    for setting in settings_of(frame):
        headers, rows = cells(within(frame, setting), metric, bigger=bigger)
        texts.append(f"% {setting.title}; radius: {setting.radius}")
        texts.append(tabulate(rows, headers=headers, tablefmt="latex_booktabs", disable_numparse=True))
    return "\n".join(texts) + "\n"


def cells(frame: pd.DataFrame, metric: str, *, bigger: bool) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows, a row per model and attack: means over seeds, `-` where nothing was measured."""
    wide = curves(frame, metric)
    radii = [radius for radius in wide.columns if radius > 0]
    values, kept = over_seeds(wide), over_seeds(shares(wide, bigger=bigger, metric=metric))
    measured = set(series(frame, metric).index.droplevel("seed"))
    rows = [
        [
            *(label(name), attack, f"{row[0.0]:.4f}"),
            *(
                f"{row[r]:.4f} ({percent(kept.loc[(name, attack), r])})" if (name, attack, r) in measured else "-"
                for r in radii
            ),
        ]
        for (name, attack), row in values.iterrows()
    ]
    return ["defense", "attack", *(f"radius {radius:g}" for radius in wide.columns)], rows


def overview(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of all settings: from which measured radius on the strongest attack leaves how much."""
    rows = []
    for setting in settings_of(frame):
        wide = curves(within(frame, setting), metric)
        kept = over_seeds(shares(wide, bigger=bigger, metric=metric))
        for name, worst in strongest(tried(kept, within(frame, setting), metric)).iterrows():
            noise = kept.loc[(name, NOISE)] if (name, NOISE) in kept.index else None
            clean = wide.loc[name][0.0].mean()
            rows.append([setting.title, label(name), f"{clean:.4f}", *(falls(worst, noise, s) for s in FALLS)])
    headers = [
        "attacked",
        "defense",
        f"clean {metric.upper()}",
        *(f"keeps {share:.0%} or less from" for share in FALLS),
    ]
    return markdown(rows, headers)


def falls(worst: pd.Series, noise: pd.Series | None, share: float) -> str:
    """Return the smallest measured radius that leaves no more than `share`, and what noise leaves there."""
    low = [radius for radius in worst.index if radius > 0 and not worst[radius] > share]  # NaN is low
    if not low:
        return f"no radius up to {max(worst.index[worst < math.inf], default=0):g}"
    return f"{low[0]:g}" + ("" if noise is None else f" (noise: {percent(noise[low[0]])})")


def check_table(checks: list[Check]) -> str:
    """Return the Markdown table of self-checks; a failed one is in capitals."""
    rows = [(label(c.defense), c.name, c.status.upper() if c.status == FAILED else c.status, c.detail) for c in checks]
    return markdown(rows, ["defense", "check", "status", "seen"])

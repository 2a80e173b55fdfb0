"""What do the tables say?  Values and shares kept at each radius, for Markdown and LaTeX; self-checks."""

import pandas as pd
from tabulate import tabulate

from recbole_rawp.checks import FAILED, Check
from recbole_rawp.curves import curves, label, over_seeds, percent, places, series, settings_of, shares, within


def table(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of the frame's first setting: values, and shares kept, at each radius."""
    headers, rows = cells(frame, metric, bigger=bigger)
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


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


def check_table(checks: list[Check]) -> str:
    """Return the Markdown table of self-checks; a failed one is in capitals."""
    rows = [(label(c.defense), c.name, c.status.upper() if c.status == FAILED else c.status, c.detail) for c in checks]
    return tabulate(rows, headers=["defense", "check", "status", "seen"], tablefmt="github")

"""Tables of values and shares kept at each level, for Markdown and LaTeX; of self-checks. Text as Markdown has it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd
from tabulate import tabulate

from recbole_rawp.evaluation.records import FAILED, Check
from recbole_rawp.report.scores import (
    by_threat,
    control_of,
    label,
    models_on_data,
    over_seeds,
    own_least_kept,
    percent,
    series,
    settings_of,
    shares_kept,
    within,
)
from recbole_rawp.threats.setting import CLEAN

FALLS = (0.9, 0.5)  # shares of the clean score that the overview looks for
CODE = re.compile(r"((?<![`\\])`(?!`)[^`]+`(?!`))")
LIVE = re.compile(r"\][(:]|<(?=[A-Za-z/!?])")  # by which links and HTML are told


def inert(text: object) -> str:
    """Return text that somebody wrote as one line in which no link, picture or HTML begins; `code` and ** stay."""
    parts = CODE.split(" ".join(str(text).split()))  # every second one is code
    return "".join(part if i % 2 else LIVE.sub(as_entity, part) for i, part in enumerate(parts))


def as_entity(found: re.Match[str]) -> str:
    """Return what was found with its last character as Markdown does not take for a mark."""
    return f"{found[0][:-1]}&#{ord(found[0][-1])};"


def listed(lines: Iterable[object]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {inert(line)}" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """Return a block of code that ends where the text does, whatever backticks that holds."""
    return f"{ticks(text, 3)}{language}\n{text}\n{ticks(text, 3)}"


def coded(text: str) -> str:
    """Return a line of code among words."""
    text, mark = " ".join(text.split()), ticks(text, 1)
    return f"{mark} {text} {mark}" if len(mark) > 1 else f"{mark}{text}{mark}"


def ticks(text: str, fewest: int) -> str:
    """Return more backticks than the text has in a row."""
    return "`" * max(fewest, 1 + max(map(len, re.findall("`+", text)), default=0))


def markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return a Markdown table; a bar in a cell is escaped, and its text `inert`."""
    escaped = [[inert(cell).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="github", disable_numparse=True)


def table(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of the frame's first setting: values, and shares kept, at each level."""
    headers, rows = cells(frame, metric, bigger=bigger)
    return markdown(rows, headers)


def latex(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return a LaTeX tabular per setting (package booktabs), each after a comment that says what it is."""
    texts = [rf"% {models_on_data(frame)}: {metric.upper()}, in brackets the share kept. \usepackage{{booktabs}}"]
    for setting in settings_of(frame):
        headers, rows = cells(within(frame, setting), metric, bigger=bigger)
        texts.append(f"% {setting.title}; {setting.words.noun}: {setting.axis}")
        texts.append(tabulate(rows, headers=headers, tablefmt="latex_booktabs", disable_numparse=True))
    return "\n".join(texts) + "\n"


def cells(frame: pd.DataFrame, metric: str, *, bigger: bool) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows, a row per model and variant: means over seeds, `-` where nothing was measured."""
    wide = by_threat(frame, metric)
    setting, levels = settings_of(frame)[0], [level for level in wide.columns if level != CLEAN]
    values, (kept, _) = over_seeds(wide), shares_kept(frame, metric, bigger=bigger)
    measured = set(series(frame, metric).index.droplevel("seed"))
    rows = [
        [
            *(label(name), variant, f"{row[CLEAN]:.4f}"),
            *(
                f"{row[x]:.4f} ({percent(kept.loc[(name, variant), x])})" if (name, variant, x) in measured else "-"
                for x in levels
            ),
        ]
        for (name, variant), row in values.iterrows()
    ]
    return ["defense", "threat", *map(setting.at, wide.columns)], rows


def overview(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of all settings: from which measured level on the strongest attack leaves how much."""
    rows = []
    for setting in settings_of(frame):
        own = within(frame, setting)
        wide, (kept, _) = by_threat(own, metric), shares_kept(own, metric, bigger=bigger)
        for name, worst in own_least_kept(own, metric, bigger=bigger).iterrows():
            control = control_of(kept, name)
            noise = None if control is None else kept.loc[(name, control)]
            clean = wide.loc[name][CLEAN].mean()
            rows.append(
                [
                    setting.title,
                    label(name),
                    f"{clean:.4f}",
                    *(falls(worst, noise, share, noun=setting.words.noun) for share in FALLS),
                ]
            )
    headers = [
        "attacked",
        "defense",
        f"clean {metric.upper()}",
        *(f"keeps less than {share:.0%} from" for share in FALLS),
    ]
    return markdown(rows, headers)


def falls(worst: pd.Series, noise: pd.Series | None, share: float, *, noun: str = "radius") -> str:
    """Return the first measured level that leaves less than `share`, and what noise leaves there.

    n/a where there is nothing to lose.
    """
    if pd.isna(worst[CLEAN]):
        return percent(worst[CLEAN])
    low = [level for level in worst.index if level != CLEAN and not worst[level] >= share]  # NaN is low
    if not low:
        return f"no {noun} up to {max(worst.index[worst < math.inf], default=0):g}"
    return f"{low[0]:g}" + ("" if noise is None else f" (control: {percent(noise[low[0]])})")


def check_table(checks: list[Check]) -> str:
    """Return the Markdown table of self-checks; a failed one is in capitals."""
    rows = [(label(c.defense), c.name, c.status.upper() if c.status == FAILED else c.status, c.detail) for c in checks]
    return markdown(rows, ["defense", "check", "status", "seen"])

"""Says what a model bears of what nobody looks for the worst of: number formats, pruning, bit errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from recbole_rawp.evaluation.records import HALF
from recbole_rawp.report.scores import label, percent, settings_of, shares_of_tried, variant_title, within
from recbole_rawp.threats.setting import CLEAN, Setting

WELL = 0.95  # share of the score: as good as before
Case = tuple[str, float]  # what was done, and the share that is kept


def bearing(frame: pd.DataFrame, metric: str, *, bigger: bool) -> list[str]:
    """Return a line per model and target: what it bears, what costs it how much, and what it is lost to.

    Of settings without an adversary; nothing where there is none. Means over seeds.
    """
    several = [name for name in ("model", "dataset") if frame[name].nunique() > 1]
    lines = []
    for _, own in frame.groupby(["model", "dataset"], sort=False):
        whose = " on ".join(own[several].iloc[0]) + ": " if several else ""
        lines += [f"**{whose}{line}" for line in of_model(own, metric, bigger=bigger)]
    return lines


def of_model(frame: pd.DataFrame, metric: str, *, bigger: bool) -> Iterator[str]:
    """Yield the lines of one model on one data set, after what tells it from others."""
    found: dict[tuple[str, str], list[list[Case]]] = {}
    for setting in settings_of(frame):
        if not setting.words.adversary:
            kept = shares_of_tried(within(frame, setting), metric, bigger=bigger)
            for (name, variant), row in kept.iterrows():
                cases = cases_of(setting, variant, row) if row[CLEAN] == row[CLEAN] else []
                found.setdefault((name, setting.what), []).append(cases)
    for (name, what), groups in found.items():
        text = "; ".join(said(groups, metric, bigger=bigger))
        yield f"{label(name)}**, {what}: {text or 'it ranks no better than chance, so there is nothing to lose'}."


def cases_of(setting: Setting, variant: str, row: pd.Series) -> list[Case]:
    """Return a variant at each level that was tried; those up to which all of it is borne as one."""
    words, title = setting.words, setting.words.variant(setting, variant_title(variant))
    tried = [(level, float(share)) for level, share in row.items() if level != CLEAN and share != math.inf]
    well = next((n for n, (_, share) in enumerate(tried) if not share >= WELL), len(tried))
    upto = "up to " if well > 1 else ""
    borne = [f"{title} {upto}{words.amount(tried[well - 1][0])}".strip()] if well else []
    return [*((what, 1.0) for what in borne), *((f"{title} {words.amount(x)}".strip(), s) for x, s in tried[well:])]


def said(cases: list[list[Case]], metric: str, *, bigger: bool) -> Iterator[str]:
    """Yield what is borne, what costs some of the score, and what most of it."""
    every = [case for group in cases for case in group]
    well = [what for what, share in every if share >= WELL]
    some = [f"{what} {percent(share)}" for what, share in every if HALF <= share < WELL]
    lost = [f"{what} {percent(share)}" for what, share in every if not share >= HALF]  # NaN is lost, too
    if well:
        left = f"{metric.upper()} is left" if bigger else f"clean {metric.upper()} / changed {metric.upper()}"
        yield f"bears {', '.join(well)} ({WELL:.0%} or more of its {left})"
    if some:
        yield f"pays for {', '.join(some)}"
    if lost:
        yield f"**is lost** (less than half) to {', '.join(lost)}"

"""The row of one run of a comparison, and its users, under the strongest of the headline's attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_rawp.evaluation.records import FAILED, PASSED
from recbole_rawp.report import run_files
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import BEFORE, complete, is_control, settings_of, shares, within
from recbole_rawp.threats.setting import CLEAN, UNIVERSAL, Setting


def measure(folder: Path) -> dict[str, Any]:
    """Return what a finished run adds to its row: clean score, and at each level L what noise and attacks leave.

    `robust@L` is the worst over the variants other than controls in the first setting of the run's suite, and
    `threat@L` the one that it is of; `kept@L` its share of the clean score. Test data, unrounded, the final model.
    `noun` is what a level is called, `axis` what it measures.
    """
    run = run_files.read_run(folder)
    metric, bigger = run.facts["metric"], run.facts["bigger"]
    setting, rows = headline(run.frame, metric)
    noise = rows[rows["threat"].map(is_control)].set_index("level")["value"]
    worst = worst_scores(rows, bigger=bigger)
    kept = shares(worst["value"].to_frame().T, bigger=bigger, metric=metric).iloc[0]
    found: dict[str, Any] = {"metric": metric, "bigger": bigger, "attacked": setting.title}
    found |= {"noun": setting.words.noun, "axis": setting.axis}
    found["clean"] = float(worst.loc[CLEAN, "value"])
    for level in worst.index[worst.index != CLEAN]:
        found |= {f"robust@{level:g}": worst.loc[level, "value"], f"kept@{level:g}": kept[level]}
        found |= {f"threat@{level:g}": worst.loc[level, "threat"]}
        found |= {f"noise@{level:g}": noise[level]} if level in noise.index else {}
    checks = [check for check in run.checks if not check.defense.endswith(BEFORE)]
    status = [check.status for check in checks]
    broken = "; ".join(dict.fromkeys(check.name for check in checks if check.status == FAILED))
    return found | {"checks_passed": status.count(PASSED), "checks_failed": status.count(FAILED), "broken": broken}


def headline(frame: pd.DataFrame, metric: str) -> tuple[Setting, pd.DataFrame]:
    """Return the first setting of a run, and its records of the metric, of the final model."""
    frame = complete(frame)
    rows = frame[(frame["metric"] == metric) & (frame["stage"] == frame["stage"].max())]
    setting = settings_of(rows)[0]
    return setting, within(rows, setting).drop_duplicates(["threat", "level"], keep="last")


def worst_scores(rows: pd.DataFrame, *, bigger: bool) -> pd.DataFrame:
    """Return variant and value of the worst score, by level from 0; controls only where alone, NaN is the worst."""
    climbing = rows[~rows["threat"].map(is_control)]
    rows = climbing if len(climbing) else rows
    harm = (-rows["value"] if bigger else rows["value"]).fillna(np.inf)
    worst = rows.loc[harm.groupby(rows["level"]).idxmax()]
    return worst.set_index("level")[["threat", "value"]].sort_index()


def user_scores(folder: Path) -> dict[float, pd.Series]:
    """Return each user's score of the final model by level, 0 too, under the variant that is the strongest for all.

    Indexed by RecBole's user ids, a mean where a user has several rows. Nothing for metrics that are no mean over
    users.
    """
    run: Run = run_files.read_run(folder)
    metric = run.facts["metric"]
    setting, rows = headline(run.frame, metric)
    part = run.users.get(setting.scope or UNIVERSAL)
    if part is None or metric not in part.metrics:
        return {}
    conditions = complete(pd.DataFrame(part.conditions))
    conditions = within(conditions[conditions["stage"] == conditions["stage"].max()], setting)
    values, found = part.values[:, part.metrics.index(metric)], {}
    for level, variant in worst_scores(rows, bigger=run.facts["bigger"])["threat"].items():
        (number, *_) = conditions.index[(conditions["threat"] == variant) & (conditions["level"] == level)]
        found[float(level)] = pd.Series(values[number].astype(float), index=part.user).groupby(level=0).mean()
    return found

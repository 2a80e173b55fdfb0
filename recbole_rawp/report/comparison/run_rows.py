"""What did one run of a comparison find?  Its row, and its users, under the strongest of the headline's attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_rawp.evaluation.checks import FAILED, PASSED
from recbole_rawp.report import run_files
from recbole_rawp.report.curves import BEFORE, NOISE, complete, settings_of, shares, within
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.wording import Setting


def measure(folder: Path) -> dict[str, Any]:
    """Return what a finished run adds to its row: clean score, and at each radius R what noise and attacks leave.

    `robust@R` is the worst over the attacks other than noise in the first setting of the run's suite, and `attack@R`
    the one that it is of; `kept@R` its share of the clean score. Test data, unrounded, the final model.
    """
    run = run_files.load(folder)
    metric, bigger = run.facts["metric"], run.facts["bigger"]
    setting, rows = headline(run.frame, metric)
    noise = rows[rows["attack"] == NOISE].set_index("radius")["value"]
    worst = strongest(rows, bigger=bigger)
    kept = shares(worst["value"].to_frame().T, bigger=bigger, metric=metric).iloc[0]
    found: dict[str, Any] = {"metric": metric, "bigger": bigger, "attacked": setting.title, "moved": setting.radius}
    found["clean"] = float(worst.loc[0.0, "value"])
    for radius in worst.index[worst.index > 0]:
        found |= {f"robust@{radius:g}": worst.loc[radius, "value"], f"kept@{radius:g}": kept[radius]}
        found |= {f"attack@{radius:g}": worst.loc[radius, "attack"]}
        found |= {f"noise@{radius:g}": noise[radius]} if radius in noise.index else {}
    checks = [check for check in run.checks if not check.defense.endswith(BEFORE)]
    status = [check.status for check in checks]
    broken = "; ".join(dict.fromkeys(check.name for check in checks if check.status == FAILED))
    return found | {"checks_passed": status.count(PASSED), "checks_failed": status.count(FAILED), "broken": broken}


def headline(frame: pd.DataFrame, metric: str) -> tuple[Setting, pd.DataFrame]:
    """Return the first setting of a run, and its records of the metric, of the final model."""
    frame = complete(frame)
    rows = frame[(frame["metric"] == metric) & (frame["stage"] == frame["stage"].max())]
    setting = settings_of(rows)[0]
    return setting, within(rows, setting).drop_duplicates(["attack", "radius"], keep="last")


def strongest(rows: pd.DataFrame, *, bigger: bool) -> pd.DataFrame:
    """Return attack and value of the worst attack, by radius from 0; noise only where it is alone, NaN is the worst."""
    climbing = rows[rows["attack"] != NOISE]
    rows = climbing if len(climbing) else rows
    harm = (-rows["value"] if bigger else rows["value"]).fillna(np.inf)
    worst = rows.loc[harm.groupby(rows["radius"]).idxmax()]
    return worst.set_index("radius")[["attack", "value"]].sort_index()


def user_scores(folder: Path) -> dict[float, pd.Series]:
    """Return each user's score of the final model by radius, 0 too, under the attack that is the strongest for all.

    Indexed by RecBole's user ids, a mean where a user has several rows. Nothing for metrics that are no mean over
    users.
    """
    run: Run = run_files.load(folder)
    metric = run.facts["metric"]
    setting, rows = headline(run.frame, metric)
    part = run.users.get(setting.scope or "global")
    if part is None or metric not in part.metrics:
        return {}
    cells = complete(pd.DataFrame(part.cells))
    cells = within(cells[cells["stage"] == cells["stage"].max()], setting)
    values, found = part.values[:, part.metrics.index(metric)], {}
    for radius, attack in strongest(rows, bigger=run.facts["bigger"])["attack"].items():
        (number, *_) = cells.index[(cells["attack"] == attack) & (cells["radius"] == radius)]
        found[float(radius)] = pd.Series(values[number].astype(float), index=part.user).groupby(level=0).mean()
    return found

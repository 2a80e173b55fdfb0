"""Measures what the shipped suites leave of a model, and in what time, beside an attack with ten times the steps.

    python benchmarks/attack_strength.py CHECKPOINT... [--suites=quick,strongest,tenfold] [--KEY=VALUE...]

For each checkpoint of RecBole, hardened or not, and each suite: the share of the valid metric that is left on test data
by the worst change of all users' weights (hidden ones, or those that the defense perturbs) at the largest of the
checkpoint's own attack_radii; and processor seconds, of one thread unless OMP_NUM_THREADS says otherwise. `tenfold` is
APGD on the ranking loss in 100 steps from 10 starts, where `quick` takes 10 from 1, and `strongest` 20 from 3.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp import attack_checkpoint
from recbole_rawp.config import command_line
from recbole_rawp.host import checkpoint
from recbole_rawp.report.scores import complete, label, shares_kept
from recbole_rawp.threats.setting import CLEAN

TENFOLD = """
- methods: [apgd]
  target: ~
  loss: ranking
  steps: 100
  restarts: 10
"""
SUITES = "quick,standard,strongest,tenfold"


def attacked(file: str, suite: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what is left after one suite, and what it took."""
    config = checkpoint.read(file)["config"]
    tenfold = folder / "tenfold.yaml"
    tenfold.write_text(TENFOLD, encoding="utf-8")
    own = {
        "attack": str(tenfold) if suite == tenfold.stem else suite,
        "attack_radii": [max(config["attack_radii"] or [0.1])],
    }
    own |= {"rawp_output_dir": str(folder / suite), "state": "error", "show_progress": False}
    start = time.process_time()
    found = attack_checkpoint(file, config_dict=own | given, argv=[])
    seconds = time.process_time() - start
    return {"seconds": seconds, **left(found["records"], config["valid_metric"].lower(), config["valid_metric_bigger"])}


def left(records: list[Any], metric: str, bigger: bool) -> dict[str, Any]:
    """Return the radius and the share that is left of the metric under the worst attack of the first setting."""
    _, worst = shares_kept(complete(pd.DataFrame(records)), metric, bigger=bigger)
    kept = worst.iloc[-1]
    radius = max(level for level in kept.index if level != CLEAN)
    return {"radius": radius, "left": kept[radius]}


def main() -> None:
    """Print a row for each checkpoint: shares and seconds, suite by suite."""
    given, files = command_line.read(sys.argv[1:])
    suites = given.pop("suites", SUITES).split(",")
    rows = []
    for file in files:
        config = checkpoint.read(file)["config"]
        with tempfile.TemporaryDirectory() as folder:
            found = {suite: attacked(file, suite, given, Path(folder)) for suite in suites}
        row = [config["model"], label(config["defense"] or "none"), f"{found[suites[0]]['radius']:g}"]
        rows.append(row + [f"{one['left']:.0%}, {one['seconds']:.0f} s" for one in found.values()])
        print(*rows[-1], sep=" | ", flush=True)
    print(tabulate(rows, headers=["model", "defense", "radius", *suites], tablefmt="github"))


if __name__ == "__main__":
    main()

"""What did the runs of `results/run.sh` find?  Mean and spread over seeds, as a table and a picture.

    python results/collect.py ml-100k          # reads runs/results/ml-100k/*/records.csv

Writes results/neumf-DATASET.csv (all records) and the pictures; prints the table for results/neumf-DATASET.md, the
commits that the runs came from, and every self-check that failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp.report import curves, pictures

METRIC = "ndcg@10"
ORDER = ["none", "noise", "awp", "rawp"]


def spread(values: pd.Series, form: str) -> str:
    """Return mean and standard deviation over seeds, the mean alone where there is one seed."""
    mean = format(values.mean(), form)
    return f"{mean} ± {format(values.std(ddof=1), form)}" if len(values) > 1 else mean


def table(frame: pd.DataFrame) -> str:
    """Return the Markdown table: clean value, its share of plain's, and the share kept at each radius."""
    clean = frame[(frame["metric"] == METRIC) & (frame["attack"] == "fgsm") & (frame["radius"] == 0)]
    clean = clean.set_index(["defense", "seed"])["value"]
    shares = curves.shares(curves.curves(frame, METRIC), bigger=True)
    rows = []
    for defense in [name for name in ORDER if name in clean.index.unique("defense")]:
        names = [
            curves.LABELS.get(defense, defense),
            spread(clean[defense], ".4f"),
            spread((clean[defense] / clean["none"]).dropna(), ".1%"),
        ]
        for attack in shares.xs(defense, level="defense").index.unique("attack"):
            kept = shares.xs((defense, attack), level=("defense", "attack")).drop(columns=0.0)
            rows.append([*names, attack, *(spread(kept[radius], ".0%") for radius in kept)])
            names = ["", "", ""]
    radii = [f"{radius:g}" for radius in shares.columns if radius > 0]
    headers = ["defense", f"clean {METRIC.upper()}", "of plain's", "attack", *radii]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Collect one data set's runs."""
    dataset = sys.argv[1]
    runs = Path("runs/results", dataset)
    files = [file for name in ORDER for file in sorted(runs.glob(f"{name}-*/records.csv"))]
    frame = pd.concat(map(pd.read_csv, files), ignore_index=True)
    frame.to_csv(HERE / f"neumf-{dataset}.csv", index=False)
    pair = frame[frame["defense"].isin(["none", "rawp"])]
    strong = frame[frame["attack"].isin(["fgsm", "bim"])]
    pictures.plot(pair, METRIC, HERE / f"neumf-{dataset}.png", bigger=True)
    pictures.plot(strong, METRIC, HERE / f"neumf-{dataset}-defenses.png", bigger=True)
    print(table(frame))
    commits = {
        line for file in runs.glob("*/environment.txt") for line in file.read_text().splitlines() if "commit" in line
    }
    print("\n" + "\n".join(sorted(commits)))
    for file in sorted(runs.glob("*/report.md")):
        for line in file.read_text().splitlines():
            if "FAILED" in line:
                print(f"{file.parent.name}: {line}")


if __name__ == "__main__":
    main()

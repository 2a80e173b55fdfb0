"""What did the runs of `results/run.sh` find?  Mean and spread over seeds, as a table and a picture.

    python results/collect.py ml-100k          # reads runs/results/ml-100k/*/records.csv

Writes results/neumf-DATASET.csv (all records) and .png, and prints the table for results/neumf-DATASET.md.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp import report

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
    shares = report.shares(report.curves(frame, METRIC), bigger=True)
    rows = []
    for defense in [name for name in ORDER if name in clean.index.unique("defense")]:
        relative = clean[defense] / clean["none"]
        for attack in shares.loc[defense].index.unique("attack"):
            kept = shares.loc[(defense, attack)].drop(columns=0.0)
            start = (
                [report.LABELS.get(defense, defense), spread(clean[defense], ".4f"), spread(relative, ".1%")]
                if attack == "fgsm"
                else ["", "", ""]
            )
            rows.append([*start, attack, *(spread(kept[radius], ".0%") for radius in kept)])
    radii = [f"{radius:g}" for radius in shares.columns if radius > 0]
    headers = ["defense", f"clean {METRIC.upper()}", "of plain's", "attack", *radii]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Collect one data set's runs."""
    dataset = sys.argv[1]
    files = [f for name in ORDER for f in sorted(Path("runs/results", dataset).glob(f"{name}-*/records.csv"))]
    frame = pd.concat(map(pd.read_csv, files), ignore_index=True)
    frame.to_csv(HERE / f"neumf-{dataset}.csv", index=False)
    report.plot(frame, METRIC, HERE / f"neumf-{dataset}.png", bigger=True)
    print(table(frame))


if __name__ == "__main__":
    main()

"""What do the comparisons of published.md say?  python results/published_table.py FOLDER... writes .csv and .png."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import matplotlib
import pandas as pd
from tabulate import tabulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from recbole_rawp.pictures import STYLES

METRICS = ("hit@10", "ndcg@10")
DEFENSES = ("none", "rat", "awp", "rawp", "rawp_ft")
KEYS = ["model", "dataset", "defense", "attack", "labels", "radius", "metric"]


def records(folders: list[Path]) -> pd.DataFrame:
    """Return the records of attacks per user of all runs; `rawp` is stage 1 of `rawp_ft`, repaired or not."""
    frames = []
    for folder in folders:
        for file in sorted(folder.glob("*/records.csv")):
            frame = pd.read_csv(file, float_precision="round_trip", keep_default_na=False)
            frame = frame[frame["scope"] == "per_user"]
            if "rawp_ft" in set(frame["defense"]):
                frames.append(frame[frame["stage"] == frame["stage"].min()].assign(defense="rawp"))
            frames.append(frame[frame["stage"] == frame["stage"].max()])
    return pd.concat(frames, ignore_index=True)


def clean(everything: pd.DataFrame) -> str:
    """Return the table of clean scores, mean ± standard deviation over seeds."""
    rows = everything[
        (everything["radius"] == 0) & (everything["attack"] == "fgsm") & (everything["labels"] == "pseudo")
    ]
    lines = []
    for (model, dataset), place in rows.groupby(["model", "dataset"], sort=False):
        for defense in [name for name in DEFENSES if name in set(place["defense"])]:
            own = place[place["defense"] == defense]
            values = [spread(own[own["metric"] == metric]["value"]) for metric in METRICS]
            lines.append([model, dataset, defense, *values, own["seed"].nunique()])
    return tabulate(lines, headers=["model", "data", "defense", "HR@10", "NDCG@10", "seeds"], tablefmt="github")


def attacked(everything: pd.DataFrame, attack: str, labels: str, metric: str = "hit@10") -> str:
    """Return the table of scores under one attack, a column per radius, mean ± standard deviation over seeds."""
    rows = everything[everything["metric"] == metric]
    rows = rows[(rows["attack"] == attack) & (rows["labels"] == labels)]
    radii = sorted(set(rows["radius"]))
    lines = []
    for (model, dataset), place in rows.groupby(["model", "dataset"], sort=False):
        for defense in [name for name in DEFENSES if name in set(place["defense"])]:
            own = place[place["defense"] == defense]
            lines.append([model, dataset, defense, *(spread(own[own["radius"] == r]["value"]) for r in radii)])
    headers = ["model", "data", "defense", *(f"{radius:g}" for radius in radii)]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def spread(values: pd.Series) -> str:
    """Return mean ± standard deviation, the value alone where there is one."""
    if not len(values):
        return ""
    return f"{values.mean():.4f}" + (f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else "")


def picture(everything: pd.DataFrame) -> None:
    """Draw one model's HR@10 against the radius: pseudo-labels above, true ones below, a column per data set."""
    rows = everything[everything["metric"] == "hit@10"]
    (model,) = rows["model"].unique()
    datasets = list(rows["dataset"].unique())
    figure, axes = plt.subplots(
        2,
        len(datasets),
        figsize=(4 * len(datasets) + 1, 7),
        sharex=True,
        sharey="col",
        squeeze=False,
        layout="constrained",
    )
    for line, labels in zip(axes, ("pseudo", "truth")):
        for axis, dataset in zip(line, datasets):
            place = rows[(rows["dataset"] == dataset) & (rows["labels"] == labels)]
            for defense in [name for name in DEFENSES if name in set(place["defense"])]:
                own = place[(place["defense"] == defense) & (place["attack"] == "fgsm")]
                curve = own[own["radius"] > 0].groupby("radius")["value"]
                colour, marker = STYLES[defense]
                axis.plot(
                    curve.mean(), color=colour, marker=marker, markersize=4, label=defense.replace("none", "plain")
                )
                axis.fill_between(curve.mean().index, curve.min(), curve.max(), color=colour, alpha=0.15, linewidth=0)
                axis.axhline(own[own["radius"] == 0]["value"].mean(), color=colour, linewidth=0.6, linestyle=":")
            axis.set_title(f"{model} on {dataset}, {labels} labels", fontsize=9)
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.supxlabel("radius: share of the norm of each weight row (FGSM per user); dotted: clean")
    figure.supylabel("HR@10")
    figure.savefig(HERE / f"published-{model.lower()}.png", dpi=130)


def main() -> None:
    """Write the files and print the tables."""
    everything = records([Path(word) for word in sys.argv[1:]])
    everything.to_csv(HERE / "published.csv", index=False)
    for _, own in everything.groupby("model"):
        picture(own)
    print(clean(everything))
    for attack, labels in (("fgsm", "pseudo"), ("fgsm", "truth"), ("random", "pseudo")):
        for metric in METRICS:
            print(f"\n{metric} under {attack}, {labels} labels\n\n{attacked(everything, attack, labels, metric)}")


if __name__ == "__main__":
    main()

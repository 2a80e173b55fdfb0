"""What do the comparisons of published.md say?

    python results/published_table.py FOLDER... [FOLDER=MODEL...]    # of comparisons; none: what published.csv has

Their records replace those of the same model, data, defense and seed in published.csv; FOLDER=MODEL gives a model that
was trained with other settings a name of its own. Then the pictures are drawn, and the tables of published.md, each
below its comment `<!-- table MODEL -->`, are written anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from collect import spread

from recbole_rawp.report.pictures import STYLES
from recbole_rawp.report.tables import markdown

METRICS = ("hit@10", "ndcg@10")
DEFENSES = ("none", "rat", "awp", "rawp", "rawp_ft")
DATASETS = ("lastfm-loo", "amusic-loo", "ml-1m-loo")
RUN = ["model", "dataset", "defense", "seed"]
CSV, PAGE = HERE / "published.csv", HERE / "published.md"
ATTACKED = {"pseudo": ("fgsm", "pseudo"), "truth": ("fgsm", "truth"), "noise": ("random", "pseudo")}


def read(file: Path) -> pd.DataFrame:
    """Return records as they were written."""
    return pd.read_csv(file, float_precision="round_trip", keep_default_na=False)


def records(words: list[str]) -> pd.DataFrame:
    """Return the records of attacks per user, known and new; `rawp` is stage 1 of `rawp_ft`, repaired or not."""
    frames = [read(CSV)]
    for word in words:
        folder, _, name = word.partition("=")
        for file in sorted(Path(folder).glob("*/records.csv")):
            frame = read(file)
            frame = frame[frame["scope"] == "per_user"]
            frame = frame.assign(model=name or frame["model"])
            if "rawp_ft" in set(frame["defense"]):
                frames.append(frame[frame["stage"] == frame["stage"].min()].assign(defense="rawp"))
            frames.append(frame[frame["stage"] == frame["stage"].max()])
    everything = pd.concat([frame.assign(batch=number) for number, frame in enumerate(frames)])
    newest = everything.groupby(RUN)["batch"].transform("max")
    return everything[everything["batch"] == newest].drop(columns="batch").sort_values(RUN, kind="stable")


def curves(rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return data set, defense and rows of each curve, in the order of the tables."""
    pairs = [(dataset, defense) for dataset in DATASETS for defense in DEFENSES]
    parts = [rows[(rows["dataset"] == dataset) & (rows["defense"] == defense)] for dataset, defense in pairs]
    return [(*pair, part) for pair, part in zip(pairs, parts) if len(part)]


def under(rows: pd.DataFrame, attack: str, labels: str) -> pd.DataFrame:
    """Return the rows of one attack."""
    return rows[(rows["attack"] == attack) & (rows["labels"] == labels)]


def clean(rows: pd.DataFrame) -> str:
    """Return one model's table of clean scores, mean ± standard deviation over seeds."""
    rows = under(rows, "fgsm", "pseudo")
    rows = rows[rows["radius"] == 0]
    lines = []
    for dataset, defense, own in curves(rows):
        values = [spread(own[own["metric"] == metric]["value"], ".4f") for metric in METRICS]
        lines.append([dataset, defense, *values, str(own["seed"].nunique())])
    return markdown(lines, ["data", "defense", "HR@10", "NDCG@10", "seeds"])


def attacked(rows: pd.DataFrame, attack: str, labels: str) -> str:
    """Return one model's HR@10 under one attack, a column per radius, mean ± standard deviation over seeds."""
    rows = under(rows, attack, labels)
    rows = rows[rows["metric"] == "hit@10"]
    radii = sorted(set(rows["radius"]))
    lines = []
    for dataset, defense, own in curves(rows):
        values = {radius: spread(seeds, ".4f") for radius, seeds in own.groupby("radius")["value"]}
        lines.append([dataset, defense, *(values.get(radius, "") for radius in radii)])
    return markdown(lines, ["data", "defense", *(f"{radius:g}" for radius in radii)])


def picture(everything: pd.DataFrame) -> None:
    """Draw one model's HR@10 against the radius: pseudo-labels above, true ones below, a column per data set."""
    rows = everything[everything["metric"] == "hit@10"]
    (model,) = rows["model"].unique()
    datasets = [dataset for dataset in DATASETS if dataset in set(rows["dataset"])]
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
    """Write the files."""
    everything = records(sys.argv[1:])
    everything.to_csv(CSV, index=False)
    models = dict(list(everything.groupby("model")))
    for own in models.values():
        picture(own)

    def fill(found: re.Match[str]) -> str:
        """Return a table below its comment."""
        table, model = found[2], models[found[3]]
        return found[1] + (clean(model) if table == "clean" else attacked(model, *ATTACKED[table]))

    page = re.sub(r"(<!-- (\w+) (\S+) -->\n\n)\|.*?(?=\n\n)", fill, PAGE.read_text(), flags=re.DOTALL)
    PAGE.write_text(page)


if __name__ == "__main__":
    main()

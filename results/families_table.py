"""What do the runs of families.py say?  python results/families_table.py -> families.csv, families.png and tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import matplotlib
import pandas as pd
from tabulate import tabulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from recbole_rawp.report import curves
from recbole_rawp.report.pictures import STYLES

HOME = Path("runs/families")
FAMILIES = {
    "neumf": "general",
    "multivae": "autoencoder",
    "dcn": "context, BatchNorm",
    "gru4rec": "RNN",
    "sasrec": "attention",
    "ngcf": "graph",
    "kgcn": "knowledge",
}
DEFENSES = ("none", "noise", "rawp", "rawp_ft")  # rawp: stage 1 of rawp_ft, before its repair
RADII = (0.05, 0.1, 0.2, 0.5)


def runs() -> pd.DataFrame:
    """Return all records of all runs; stage 1 of `rawp_ft` counts as `rawp`, also where its repair was turned down."""
    frames = []
    for file in sorted(HOME.glob("*/*-20??/run.json")):
        run = json.loads(file.read_text())
        frame = pd.DataFrame(run["records"])
        frame["family"] = FAMILIES[run["name"]]
        if run["defense"] == "rawp_ft":
            frames.append(frame[frame["stage"] == frame["stage"].min()].assign(defense="rawp"))
            frame = frame[frame["stage"] == frame["stage"].max()]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def headline(frame: pd.DataFrame) -> str:
    """Return the metric that a model is judged by."""
    return "auc" if "auc" in set(frame["metric"]) else "ndcg@10"


def kept(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row per (defense, attack, seed): clean value, then the share of it kept at each radius."""
    metric = headline(frame)
    rows = frame[frame["metric"] == metric]
    wide = rows.pivot_table(index=["defense", "attack", "seed"], columns="radius", values="value")
    return pd.concat([wide[0.0].rename("clean"), curves.shares(wide, bigger=True, metric=metric)[list(RADII)]], axis=1)


def table(everything: pd.DataFrame) -> str:
    """Return the table of clean scores and shares kept: the stronger of FGSM and BIM of each seed, mean and range."""
    lines = []
    for family in FAMILIES.values():
        frame = everything[everything["family"] == family]
        shares = kept(frame)
        for defense in [name for name in DEFENSES if name in shares.index.unique("defense")]:
            own = shares.loc[defense]
            worst = own.loc[["fgsm", "bim"]].groupby(level="seed").min()
            noise = own.loc["random"][0.5]
            clean = own.loc["bim"]["clean"]
            names = [f"{family}: {frame['model'].iloc[0]}", headline(frame).upper()] if defense == "none" else ["", ""]
            values = [spread(worst[radius]) for radius in RADII]
            label = {"none": "plain", "rawp": "stage 1", "rawp_ft": "rawp_ft"}.get(defense, defense)
            lines.append([*names, label, f"{clean.mean():.4f} ± {clean.std():.4f}", *values, spread(noise)])
    headers = ["family", "metric", "defense", "clean", *(f"{radius:g}" for radius in RADII), "noise 0.5"]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def spread(shares: pd.Series) -> str:
    """Return mean and range in percent."""
    return f"{shares.mean():.0%} ({shares.min():.0%} to {shares.max():.0%})"


def search_table() -> str:
    """Return what was tried on validation data, in the order of trial."""
    lines = []
    for name, family in FAMILIES.items():
        files = sorted((HOME / name / "search").glob("*/trial.json"), key=lambda file: file.stat().st_mtime)
        for file in files:
            trial: dict[str, Any] = json.loads(file.read_text())
            scores = [f"{trial[key]:.4f}" for key in ("clean", "robust")]
            lines.append([family, trial["label"], *scores, f"{trial['seconds']:.0f}"])
    return tabulate(
        lines, headers=["family", "tried", "clean", "robust", "seconds"], tablefmt="github", disable_numparse=True
    )


def checks() -> list[str]:
    """Return the self-checks that failed."""
    found = []
    for file in sorted(HOME.glob("*/*-20??/run.json")):
        run = json.loads(file.read_text())
        failed = [check for check in run["checks"] if check["status"] == "failed"]
        found += [
            f"{file.parent.parent.name} {file.parent.name}: {c['defense']}: {c['name']}: {c['detail']}" for c in failed
        ]
    return found


def times() -> str:
    """Return the processor time of training, mean over seeds, and the alpha that stage 2 chose for each seed."""
    lines = []
    for name, family in FAMILIES.items():
        plain, hardened = (
            [json.loads(file.read_text()) for file in sorted((HOME / name).glob(f"{defense}-20??/run.json"))]
            for defense in ("none", "rawp_ft")
        )
        seconds = [sum(run["seconds"] for run in own) / len(own) for own in (plain, hardened)]
        epochs = ["/".join(str(run["epochs"]) for run in own) for own in (plain, hardened)]
        alphas = "/".join(f"{run['alpha'][-1]:g}" for run in hardened)
        lines.append([family, *(f"{s:.0f}" for s in seconds), f"{seconds[1] / seconds[0]:.1f}", *epochs, alphas])
    headers = ["family", "plain, s", "rawp_ft, s", "ratio", "plain epochs", "stage 1 epochs", "alpha"]
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def picture(everything: pd.DataFrame) -> None:
    """Draw the share kept under the stronger attack against the radius, a panel per family."""
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, sharey=True, layout="constrained")
    for axis, family in zip(axes.flat, FAMILIES.values()):
        frame = everything[everything["family"] == family]
        shares = kept(frame)
        for defense in [d for d in DEFENSES if d in shares.index.unique("defense")]:
            worst = shares.loc[defense].loc[["fgsm", "bim"]].groupby(level="seed").min()[list(RADII)]
            colour, marker = STYLES[defense]
            label = {"none": "plain", "rawp": "stage 1"}.get(defense, defense)
            axis.plot(RADII, worst.mean(), color=colour, marker=marker, label=label)
            axis.fill_between(RADII, worst.min(), worst.max(), color=colour, alpha=0.15, linewidth=0)
        axis.set_title(f"{family}: {frame['model'].iloc[0]}", fontsize=10)
        axis.axhline(0, color="#888888", linewidth=0.6)
        axis.set_xscale("log")
        axis.set_xticks(RADII, [f"{radius:g}" for radius in RADII])
        axis.minorticks_off()
    axes.flat[-1].axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[-1].legend(handles, labels, loc="center", frameon=False)
    figure.supxlabel("radius: share of the norm of each hidden weight tensor")
    figure.supylabel("share of the clean score kept")
    figure.savefig(HERE / "families.png", dpi=130)


def main() -> None:
    """Write the files and print the tables."""
    everything = runs()
    everything.to_csv(HERE / "families.csv", index=False)
    picture(everything)
    print(table(everything), times(), search_table(), "failed self-checks:", *checks(), sep="\n\n")


if __name__ == "__main__":
    main()

"""What did we find?  Records -> CSV, Markdown and a picture, in one folder."""

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from recbole_rawp.checks import FAILED, Check
from recbole_rawp.errors import InputError
from recbole_rawp.evaluation import SCHEMA, Record

# Colour-blind-safe (Okabe and Ito), told apart in grey by dash and marker.
STYLES = {"none": ("#D55E00", "o"), "noise": ("#56B4E9", "^"), "awp": ("#009E73", "D"), "rawp": ("#0072B2", "s")}
SPARE = (("#CC79A7", "v"), ("#000000", "P"), ("#E69F00", "X"))
DASHES = {"fgsm": "-", "bim": "--", "random": ":"}
LABELS = {"none": "plain"}
ATTACK_LABELS = {"fgsm": "FGSM", "bim": "BIM, FGSM in steps", "random": "random noise of the same norm"}


def reserve(wanted: str | None, model: str, dataset: str, defense: str) -> Path:
    """Create and return the run's output folder: `wanted`, or `runs/MODEL-DATASET-DEFENSE-TIME`.

    Raises:
        InputError: if `wanted` cannot be created or holds something.
    """
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(wanted or f"runs/{model}-{dataset}-{defense}-{stamp}")
    number = 1
    while not wanted and folder.exists():  # two runs in one second
        number += 1
        folder = folder.with_name(f"{model}-{dataset}-{defense}-{stamp}-{number}")
    check_free(wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"rawp_output_dir: cannot create '{folder}': {error.strerror}. Name another folder."
        ) from error
    return folder


def check_free(wanted: str | None) -> None:
    """Raise InputError if the output folder `wanted` exists and is not empty."""
    if wanted and Path(wanted).exists() and not (Path(wanted).is_dir() and not any(Path(wanted).iterdir())):
        raise InputError(f"rawp_output_dir: '{wanted}' is in use. Name a new or empty folder; nothing is overwritten.")


def write(
    folder: Path, records: list[Record], checks: list[Check], *, metric: str, settings: dict[str, Any], environment: str
) -> str:
    """Write records.csv, robustness.png and report.md into `folder`; return the table that the report opens with.

    Args:
        metric: the headline metric, as RecBole names it in results (`ndcg@10`).
        settings, environment: printed at the end of the report.
    """
    frame = pd.DataFrame(records, columns=list(SCHEMA))
    whole(folder / "records.csv", lambda path: frame.to_csv(path, index=False))
    summary = table(frame, metric)
    whole(folder / "robustness.png", lambda path: plot(frame, metric, path))
    parts = [
        f"# {frame['model'][0]} on {frame['dataset'][0]} under a global weight attack",
        verdict(frame, metric),
        "![share of the clean score kept, against the radius](robustness.png)",
        f"## {metric.upper()} on test data, and the share of the clean value kept",
        summary,
        "Radius: norm of the change of each attacked weight tensor, as a share of the tensor's own norm. `fgsm` moves "
        "the weights along the gradient of the training loss in one step, `bim` in several; `random` is noise of the "
        "same norm, the control. All metrics, unrounded: `records.csv`.",
        "## Self-checks",
        check_table(checks),
        "## Settings",
        "```yaml\n" + "\n".join(f"{key}: {value}" for key, value in settings.items()) + "\n```",
        "`settings.yaml` beside this file repeats the run: `recbole-rawp train --config_files=settings.yaml`.",
        "## Environment",
        f"```\n{environment}\n```",
    ]
    whole(folder / "report.md", lambda path: path.write_text("\n\n".join(parts) + "\n", encoding="utf-8"))
    return summary


def curves(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the values of `metric`: one row per (defense, attack), one column per radius, in order of appearance."""
    rows = frame[frame["metric"] == metric]
    wide = rows.pivot_table(index=["defense", "attack"], columns="radius", values="value", sort=False)
    return wide[sorted(wide.columns)]


def table(frame: pd.DataFrame, metric: str) -> str:
    """Return the Markdown table of values and of the share kept at each radius."""
    wide = curves(frame, metric)
    rows = []
    for (defense, attack), values in wide.iterrows():
        clean = values[0.0]
        cells = [f"{clean:.4f}"] + [f"{v:.4f} ({kept(v, clean)})" for radius, v in values.items() if radius > 0]
        rows.append([LABELS.get(defense, defense), attack, *cells])
    return tabulate(
        rows,
        headers=["defense", "attack", *(f"radius {r:g}" for r in wide.columns)],
        tablefmt="github",
        disable_numparse=True,
    )


def kept(value: float, clean: float) -> str:
    """Return the share of the clean value that is left, in percent."""
    return f"{value / clean:.0%}" if clean > 0 else "n/a"


def verdict(frame: pd.DataFrame, metric: str) -> str:
    """Say in one sentence what the strongest attack leaves where the models differ most (one model: mid-curve)."""
    wide = curves(frame, metric)
    attacks = [name for name in wide.index.unique("attack") if name != "random"] or ["random"]
    worst = wide[wide.index.isin(attacks, level="attack")].groupby(level="defense", sort=False).min()
    share = worst.div(worst[0.0], axis=0).fillna(0.0)
    radii = [radius for radius in share.columns if radius > 0]
    if not radii:
        return "No attack was measured: attack_radii holds only 0."
    spread = (share.iloc[-1] - share.iloc[0])[radii].abs()
    radius = spread.idxmax() if len(share) > 1 else radii[(len(radii) - 1) // 2]
    noise = {name: wide.loc[(name, "random"), radius] for name, attack in wide.index if attack == "random"}
    parts = [
        f"**{LABELS.get(name, name)}** keeps {kept(worst.loc[name, radius], clean)} of its {metric.upper()} of "
        f"{clean:.4f}" + (f" (noise of the same norm leaves {kept(noise[name], clean)})" if name in noise else "")
        for name, clean in worst[0.0].items()
    ]
    means = " or ".join(ATTACK_LABELS[attack] for attack in attacks) + ", the worse" * (len(attacks) > 1)
    return f"When each weight tensor moves by {radius:.0%} of its norm ({means}), {'; '.join(parts)}."


def check_table(checks: list[Check]) -> str:
    """Return the Markdown table of self-checks; a failed one is in capitals."""
    rows = [
        (LABELS.get(c.defense, c.defense), c.name, c.status.upper() if c.status == FAILED else c.status, c.detail)
        for c in checks
    ]
    return tabulate(rows, headers=["defense", "check", "status", "seen"], tablefmt="github")


def plot(frame: pd.DataFrame, metric: str, path: Path) -> None:
    """Draw the metric and the share of it kept against the radius, one line per defense and attack.

    Over several seeds a line is the mean, and a band reaches from the lowest to the highest.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    wide = frame[frame["metric"] == metric].pivot_table(
        index=["defense", "attack", "seed"], columns="radius", values="value", sort=False
    )
    wide = wide[sorted(wide.columns)]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    value_axes, share_axes = figure.subplots(1, 2)
    spare = iter(SPARE * 4)
    styles = {name: STYLES.get(name) or next(spare) for name in wide.index.unique("defense")}
    for (defense, attack), seeds in wide.groupby(level=["defense", "attack"], sort=False):
        colour, marker = styles[defense]
        line = {"color": colour, "marker": marker, "linestyle": DASHES[attack], "markersize": 5}
        label = f"{LABELS.get(defense, defense)}, {ATTACK_LABELS[attack]}"
        for axes, values in ((value_axes, seeds), (share_axes, seeds.div(seeds[0.0].where(seeds[0.0] > 0), axis=0))):
            axes.plot(values.columns, values.mean(), label=label, **line)
            axes.fill_between(values.columns, values.min(), values.max(), color=colour, alpha=0.15, linewidth=0)
    value_axes.set_ylabel(metric.upper())
    share_axes.set_ylabel("share of the clean score kept")
    share_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (value_axes, share_axes):
        axes.set_xlabel("radius (share of each weight tensor's norm)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{frame['model'][0]} on {frame['dataset'][0]}: {metric.upper()} when its weights are attacked")
    figure.legend(*value_axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150, format="png")


def whole(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    save(partial)
    os.replace(partial, path)

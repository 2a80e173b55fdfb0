"""What did we find?  Records -> CSV, Markdown and a picture, in one folder."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from recbole_rawp.checks import FAILED, Check
from recbole_rawp.evaluation import SCHEMA, Record
from recbole_rawp.output import whole, write_text

# Colour-blind-safe (Okabe and Ito), told apart in grey by dash and marker.
STYLES = {
    "none": ("#D55E00", "o"),
    "noise": ("#56B4E9", "^"),
    "awp": ("#009E73", "D"),
    "rawp": ("#0072B2", "s"),
    "rawp_ft": ("#CC79A7", "v"),
}
SPARE = (("#000000", "P"), ("#E69F00", "X"))
DASHES = {"fgsm": "-", "bim": "--", "random": ":"}
LABELS = {"none": "plain"}
BEFORE, AFTER = " before repair", " repaired"
ATTACK_LABELS = {"fgsm": "FGSM", "bim": "FGSM in steps (BIM)", "random": "random noise of the same norm"}


def write(
    folder: Path,
    records: list[Record],
    checks: list[Check],
    *,
    metric: str,
    bigger: bool,
    settings: dict[str, Any],
    environment: str,
    sections: Sequence[str] = (),
    again: str = "train",
) -> str:
    """Write records.csv, robustness.png and report.md into `folder`; return the table that the report opens with.

    Args:
        metric: the headline metric, as RecBole names it in results (`ndcg@10`).
        bigger: whether more of it is better (`valid_metric_bigger`).
        settings, environment: printed at the end of the report.
        sections: further parts of the report, after the table.
        again: the command that repeats the run.
    """
    frame = pd.DataFrame(records, columns=list(SCHEMA))
    whole(folder / "records.csv", lambda path: frame.to_csv(path, index=False))
    summary = table(frame, metric, bigger=bigger)
    whole(folder / "robustness.png", lambda path: plot(frame, metric, path, bigger=bigger))
    parts = [
        f"# {frame['model'].iloc[0]} on {frame['dataset'].iloc[0]} under a global weight attack",
        verdict(frame, metric, bigger=bigger),
        "![value and share kept, against the radius](robustness.png)",
        f"## {metric.upper()} on test data, and the share of the clean value kept",
        summary,
        "Radius: norm of the change of each attacked weight tensor, as a share of the tensor's own norm. `fgsm` moves "
        "the weights along the gradient of the training loss in one step, `bim` in several; `random` is noise of the "
        "same norm, the control. All metrics, unrounded: `records.csv`."
        + " Less of this metric is better: the share kept is clean value / attacked value."
        * (not bigger),
        *sections,
        "## Self-checks",
        check_table(checks),
        "## Settings",
        "```yaml\n" + "\n".join(f"{key}: {value}" for key, value in settings.items()) + "\n```",
        f"`settings.yaml` beside this file repeats the run: `recbole-rawp {again} --config_files=settings.yaml`.",
        "## Environment",
        f"```\n{environment}\n```",
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    return summary


def curves(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the values of `metric`: a row per (defense, attack, seed) as they appear, a column per radius."""
    rows = named(frame[frame["metric"] == metric]).set_index(["defense", "attack", "seed", "radius"])["value"]
    wide = rows.unstack("radius", sort=False)
    return wide[sorted(wide.columns)]


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records with models told apart by `defense`: a repaired one from what it was before its repair."""
    both = frame.groupby("defense")["stage"].transform("nunique") == 2
    return frame.assign(defense=frame["defense"] + both * frame["stage"].map({1: BEFORE, 2: AFTER}).fillna(""))


def label(defense: str) -> str:
    """Return the name of a defense as the report prints it."""
    name = bare(defense)
    return LABELS.get(name, name) + defense.removeprefix(name)


def bare(defense: str) -> str:
    """Return the name of a defense without what tells the stages apart."""
    return defense.removesuffix(BEFORE).removesuffix(AFTER)


def shares(wide: pd.DataFrame, *, bigger: bool) -> pd.DataFrame:
    """Return the share of the clean value kept: value / clean, or clean / value where less is better."""
    ratio = wide.div(wide[0.0], axis=0)
    return ratio.where(wide[0.0].abs() > 0) if bigger else (1 / ratio).where(wide > 0)


def table(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the Markdown table of values, and of the share kept, at each radius: means over seeds."""
    wide = curves(frame, metric)
    level = ["defense", "attack"]
    values, kept = (f.groupby(level=level, sort=False).mean() for f in (wide, shares(wide, bigger=bigger)))
    rows = [
        [
            label(defense),
            attack,
            f"{row[0.0]:.4f}",
            *(f"{row[r]:.4f} ({percent(kept.loc[(defense, attack), r])})" for r in wide.columns if r > 0),
        ]
        for (defense, attack), row in values.iterrows()
    ]
    headers = ["defense", "attack", *(f"radius {radius:g}" for radius in wide.columns)]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def percent(share: float) -> str:
    """Return a share in percent; one that has no meaning (a clean value of 0, scores of NaN) as n/a."""
    return "n/a" if math.isnan(share) else f"{share:.0%}"


def verdict(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Say in one sentence what the strongest attack leaves where the models differ most (one model: mid-curve)."""
    wide = curves(frame, metric)
    kept = shares(wide, bigger=bigger).groupby(level=["defense", "attack"], sort=False).mean()
    attacks = [name for name in kept.index.unique("attack") if name != "random"] or ["random"]
    worst = kept[kept.index.isin(attacks, level="attack")].groupby(level="defense", sort=False)
    worst = worst.agg(lambda column: column.min(skipna=False))
    radii = [radius for radius in worst.columns if radius > 0]
    if not radii:
        return "No attack was measured: attack_radii holds only 0."
    spread = (worst.iloc[-1] - worst.iloc[0])[radii].abs().fillna(0.0)
    radius = spread.idxmax() if len(worst) > 1 else radii[(len(radii) - 1) // 2]
    clean = wide[0.0].groupby(level="defense", sort=False).mean()
    noise = {name: kept.loc[(name, "random"), radius] for name, attack in kept.index if attack == "random"}
    parts = [
        f"**{label(name)}** keeps {percent(worst.loc[name, radius])} of its {metric.upper()} of "
        f"{clean[name]:.4f}" + (f" (noise of the same norm leaves {percent(noise[name])})" if name in noise else "")
        for name in worst.index
    ]
    means = "the worse of " * (len(attacks) > 1) + " and ".join(ATTACK_LABELS[attack] for attack in attacks)
    return f"When {means} moves each weight tensor by {radius:.0%} of its norm, {'; '.join(parts)}."


def check_table(checks: list[Check]) -> str:
    """Return the Markdown table of self-checks; a failed one is in capitals."""
    rows = [(label(c.defense), c.name, c.status.upper() if c.status == FAILED else c.status, c.detail) for c in checks]
    return tabulate(rows, headers=["defense", "check", "status", "seen"], tablefmt="github")


def plot(frame: pd.DataFrame, metric: str, path: Path, *, bigger: bool) -> None:
    """Draw the metric and the share of it kept against the radius, one line per defense and attack.

    Over several seeds a line is the mean, and a band reaches from the lowest to the highest (up to six lines: more
    bands would hide one another).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    wide = curves(frame, metric)
    bands = len(wide.index.droplevel("seed").unique()) <= 6
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    value_axes, share_axes = figure.subplots(1, 2)
    spare = iter(SPARE * 4)
    styles = {name: STYLES.get(name.removesuffix(AFTER)) or next(spare) for name in wide.index.unique("defense")}
    for (defense, attack), seeds in wide.groupby(level=["defense", "attack"], sort=False):
        colour, marker = styles[defense]
        line = {"color": colour, "marker": marker, "linestyle": DASHES[attack], "markersize": 5}
        title = f"{label(defense)}, {ATTACK_LABELS[attack]}"
        for axes, values in ((value_axes, seeds), (share_axes, shares(seeds, bigger=bigger))):
            axes.plot(values.columns, values.mean(), label=title, **line)
            if bands:
                axes.fill_between(values.columns, values.min(), values.max(), color=colour, alpha=0.15, linewidth=0)
    value_axes.set_ylabel(metric.upper())
    share_axes.set_ylabel("share of the clean score kept")
    share_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (value_axes, share_axes):
        axes.set_xlabel("radius (share of each weight tensor's norm)")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{frame['model'].iloc[0]} on {frame['dataset'].iloc[0]}: {metric.upper()} when its weights are attacked"
    )
    figure.legend(*value_axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150, format="png")

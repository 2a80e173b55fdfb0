"""Reports what ranking and repair found: criticality.csv, tuning.csv, interpolation.csv, their pictures, and words."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.config.settings import FineTuning
from recbole_rawp.files import whole
from recbole_rawp.host.ranking.scores import limit
from recbole_rawp.report.pictures import canvas
from recbole_rawp.report.sections.section import section_of_run
from recbole_rawp.report.tables import markdown
from recbole_rawp.threats.setting import Setting
from recbole_rawp.training.stage2.criticality import ModuleCriticality
from recbole_rawp.training.stage2.progress import Progress, advice

REPAIRED, OTHER, CLEAN, ROBUST = "#D55E00", "#0072B2", "#009E73", "#CC79A7"


@section_of_run(70)
def sections(trainer: Any, folder: Path) -> list[str]:
    """Write the files of stage 2 into `folder` and return its parts of the report; nothing where there was none."""
    progress: Progress | None = trainer.state.progress
    if progress is None:
        return []
    settings: FineTuning = trainer.fine_tuning
    metric, title = trainer.valid_metric.upper(), f"{trainer.config['model']} on {trainer.config['dataset']}"
    epochs, sweep = pd.DataFrame(progress.epochs), pd.DataFrame(progress.sweep)
    write_ranking(progress.ranking, folder, title=title)
    whole(folder / "tuning.csv", lambda path: epochs.to_csv(path, index=False))
    whole(folder / "interpolation.csv", lambda path: sweep.to_csv(path, index=False))
    floor = limit(progress.clean, settings.clean_tolerance, bigger=trainer.valid_metric_bigger)
    steps = "FGSM" if settings.attack_steps == 1 else f"BIM in {settings.attack_steps} steps"
    robust = f"under {steps}, radius {settings.recipe.radius:g}"
    picture = partial(plot_sweep, sweep, metric=metric, floor=floor, title=title, robust=robust)
    whole(folder / "interpolation.png", picture)
    return [
        "## Stage 2: which module is the least robust",
        ranking_table(progress.ranking),
        f"MRC is the rise of the training loss at the worst change of one module, {settings.criticality.radius:g} of "
        f"each {settings.criticality.granularity}'s norm, in {settings.criticality.steps} steps. `criticality.csv`."
        "\n\n![loss rise of each module](criticality.png)",
        "## Stage 2: what its repair gained, on validation data",
        outcome(progress, metric),
        f"theta(alpha) = (1 - alpha) * before + alpha * tuned. Robust: {metric} when "
        f"{happens(settings, steps)}. Chosen: the best robust score whose clean score keeps "
        f"{settings.clean_tolerance:.1%} of stage 1's. `interpolation.csv`, `tuning.csv`."
        "\n\n![clean and robust score against alpha](interpolation.png)",
        cost(progress.seconds, trainer.state.seconds if trainer.train_loss_dict else None),
    ]


def happens(settings: FineTuning, attack: str) -> str:
    """Say what the attack of the robust score does."""
    recipe = settings.recipe
    if recipe.granularity == "tensor":
        size = "of its norm" if recipe.relative else "in L2 norm"
        return f"{attack} moves every ranked weight by {recipe.radius:g} {size}"
    target = settings.target if isinstance(settings.target, str) else ""
    setting = Setting(target, recipe.granularity, "relative radius" if recipe.relative else "absolute radius")
    return setting.words.happens(setting, recipe.radius, attack)


def write_ranking(rows: list[ModuleCriticality], folder: Path, *, title: str) -> str:
    """Write criticality.csv and criticality.png into `folder`; return the table."""
    frame = pd.DataFrame([row.columns() for row in rows])
    whole(folder / "criticality.csv", lambda path: frame.to_csv(path, index=False))
    whole(folder / "criticality.png", lambda path: plot_ranking(frame, path, title=title))
    return ranking_table(rows)


def ranking_table(rows: list[ModuleCriticality]) -> str:
    """Return the Markdown table of a ranking, weakest first, with rounds where there are several."""
    frame = pd.DataFrame([row.columns() for row in rows])
    columns = {"module": "module", "parameters": "weights", "rise": "loss rise (MRC)", "relative_rise": "relative rise"}
    formats = {"rise": "{:.3g}", "relative_rise": "{:.1%}", "drop": "{:.4f}"}
    if "drop" in frame:
        columns["drop"] = f"drop of {frame['metric'].iloc[0].upper()}"
    if "repaired" in frame:
        columns["repaired"] = "repaired"
        frame["repaired"] = frame["repaired"].map({True: "yes", False: ""})
    if frame.get("round", pd.Series([0])).nunique() > 1:
        columns = {"round": "round", **columns}
        frame["round"] = frame["round"] + 1
    for name, form in formats.items():
        if name in frame:
            frame[name] = frame[name].map(form.format)
    return markdown(frame[list(columns)].to_numpy().tolist(), list(columns.values()))


def outcome(progress: Progress, metric: str) -> str:
    """Say for each round what was chosen."""
    lines = []
    for number, rows in _rounds(pd.DataFrame(progress.sweep)):
        names = [f"`{r.module}`" for r in progress.ranking if r.round == number and r.repaired]
        before, chosen = rows.iloc[0], rows[rows["chosen"]].iloc[0]
        clean, robust = (f"{before[kind]:.4f} -> {chosen[kind]:.4f}" for kind in ("clean", "robust"))
        verdict = (
            f"alpha = {chosen.alpha:g}: clean {metric} {clean}, robust {robust}."
            if chosen.alpha
            else "alpha = 0: no gain, nothing was changed."
        )
        lines.append(f"Repaired {', '.join(names)}. **{verdict}**{advice(progress, number)}")
    return "\n\n".join(lines)


def cost(stage_2: float, stage_1: float | None) -> str:
    """Say what stage 2 cost; a model that came from a checkpoint has no stage 1 to compare."""
    share = f", {stage_2 / stage_1:.2f} of stage 1's {stage_1:.1f} s" if stage_1 else ""
    return f"Stage 2 took {stage_2:.1f} s{share}."


def plot_ranking(frame: pd.DataFrame, path: Path, *, title: str) -> None:
    """Draw a bar per module: the loss rise, weakest on top, a panel per round; repaired modules stand out."""
    rounds = _rounds(frame)
    figure = canvas.blank(7 * len(rounds), 1.6 + 0.3 * max(len(rows) for _, rows in rounds))
    for axes, (number, rows) in zip(figure.subplots(1, len(rounds), squeeze=False)[0], rounds):
        repaired = rows["repaired"] if "repaired" in rows else rows["rise"] == rows["rise"].max()
        bars = axes.barh(rows["module"], rows["rise"], color=[REPAIRED if r else OTHER for r in repaired])
        axes.bar_label(bars, [f"{r:.1%}" for r in rows["relative_rise"]], padding=3, fontsize=8)
        axes.margins(x=0.12)
        axes.xaxis.set_major_formatter("{x:.2g}")
        axes.invert_yaxis()
        axes.set_xlabel("loss rise at the worst change of this module (and relative to the loss)")
        axes.set_title(f"{title}: criticality" + f", round {number + 1}" * (len(rounds) > 1))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")


def plot_sweep(frame: pd.DataFrame, path: Path, *, metric: str, floor: float, title: str, robust: str) -> None:
    """Draw the clean and the `robust` score against alpha, a panel per round, with the choice and the floor."""
    rounds = _rounds(frame)
    figure = canvas.blank(6 * len(rounds), 4)
    for axes, (number, rows) in zip(figure.subplots(1, len(rounds), squeeze=False)[0], rounds):
        axes.plot(rows["alpha"], rows["clean"], color=CLEAN, marker="o", label="clean")
        axes.plot(rows["alpha"], rows["robust"], color=ROBUST, marker="v", linestyle="--", label=robust)
        if math.isfinite(floor):
            axes.axhline(floor, color=CLEAN, linestyle=":", label="worst clean score allowed")
        chosen = rows["alpha"][rows["chosen"]].iloc[0]
        axes.axvline(chosen, color="black", linewidth=1, label=f"chosen: alpha = {chosen:g}")
        axes.set_xlabel("alpha (0: before, 1: tuned)")
        axes.set_ylabel(f"{metric} on validation data")
        axes.set_title(title + f", round {number + 1}" * (len(rounds) > 1))
        canvas.tidy(axes)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=150, format="png")


def _rounds(frame: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    return list(frame.groupby("round")) if "round" in frame else [(0, frame)]

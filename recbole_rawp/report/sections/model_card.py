"""Writes the card of a hardened model, which goes with its checkpoint: data, training, scores, limits, use.

It is no section of the report: it registers none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.evaluation.records import FAILED, LOSS
from recbole_rawp.files import write_text
from recbole_rawp.host.data import fingerprint
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import bare, complete, label, named
from recbole_rawp.report.tables import fenced, inert, listed, markdown, table
from recbole_rawp.threats.setting import CLEAN, PER_USER

NAME = "MODEL_CARD.md"
LIMITS = (
    "The figures hold for this data set, this split and one seed. Another seed or processor trains another model: "
    "compare means over seeds.",
    "Robust means: under the attacks above, at these levels, on the weights that they move. It says nothing of other "
    "changes, of larger ones, or of changed data.",
    "A stronger attack may be found: `recbole-rawp attack model.pth --attack=strongest` tries harder. "
    "`--attack=production` asks what the model bears where it is served.",
)


def write(folder: Path, run: Run, trainer: Any, answer: Sequence[str]) -> None:
    """Write the card of the model of a hardened trainer into the folder that holds its checkpoint."""
    write_text(folder / NAME, "\n\n".join(parts(run, trainer, answer)) + "\n")


def parts(run: Run, trainer: Any, answer: Sequence[str]) -> Iterator[str]:
    """Yield the parts of the card, Markdown."""
    config, frame = trainer.config, complete(run.frame[run.frame["metric"] == run.metric])
    yield "# " + inert(f"{config['model']} on {config['dataset']}, hardened by {label(trainer.defense)}")
    yield listed([line.replace("CHECKPOINT", "model.pth") for line in answer])
    yield "## Model\n\n" + listed(sizes(trainer))
    yield "## Data\n\n" + listed(data(config))
    yield "## Training\n\n" + listed(training(trainer)) + f"\n\n{fenced(run.facts['environment'])}"
    yield "## Clean scores on test data\n\n" + clean(run)
    yield f"## {run.metric.upper()} under attack, and the share kept\n\n" + table(frame, run.metric, bigger=run.bigger)
    broken = [f"self-check failed: {check.name} ({check.detail})" for check in run.checks if check.status == FAILED]
    yield "## Limits\n\n" + listed([*broken, *LIMITS])
    yield (
        "## Use\n\n`model.pth` is a checkpoint of RecBole: `load_data_and_model('model.pth')` of `recbole.quick_start` "
        "reads it (after `recbole_rawp.compat.apply()` on torch >= 2.6). `settings.yaml` beside it repeats the run."
    )


def sizes(trainer: Any) -> Iterator[str]:
    """Yield what the model is made of, and how much of it was perturbed."""
    every = {name: weight.numel() for name, weight in trainer.model.named_parameters()}
    yield f"{type(trainer.model).__name__}, {sum(every.values()):,} weights in {len(every)} tensors"
    if trainer.objective is not None:
        moved = [name for name in trainer.objective.weights if name in every]
        numbers = f"{sum(every[name] for name in moved):,} weights in {len(moved)} tensors"
        yield f"perturbed in training: {numbers} (rawp_target: {trainer.config['rawp_target']})"


def data(config: Any) -> Iterator[str]:
    """Yield what it was trained and measured on."""
    yield f"data set {config['dataset']}; eval_args: {flow(config['eval_args'])}"
    for name, rows in (config[fingerprint.KEY] or {}).get("rows", {}).items():
        yield f"{name} data: {rows}"


def flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()


def training(trainer: Any) -> Iterator[str]:
    """Yield how it was trained."""
    search, config, recipe = trainer.state.search, trainer.config, trainer.settings.training.recipe
    if search is not None and search.chosen is not None:
        budget = f"{config['rawp_clean_budget']:.2%} of the clean valid score"
        yield f"radius found: {search.chosen.radius:.3g}, with a budget of {budget}"
    elif recipe.change is not None:
        level = config["rawp_perturbation_level"]
        yield f"perturbation: {config['rawp_perturbation']}" + f" at {level}" * (level is not None)
    elif recipe.perturbs:
        yield f"radius: {config['rawp_radius']}"
    if config["rawp_weight_clip"] is not None:
        yield f"weights within a bound of {config['rawp_weight_clip']}"
    progress = trainer.state.progress
    if progress is not None:
        yield "stage 2: " + ("the least robust module was repaired" if progress.changed() else "nothing was changed")
    stops = f", less where the valid score stops rising (stopping_step {config['stopping_step']})"
    yield f"at most {config['epochs']} epochs{stops * (config['stopping_step'] > 0)}"
    yield ", ".join(f"{key} {config[key]}" for key in ("train_batch_size", "learner", "learning_rate", "seed"))


def clean(run: Run) -> str:
    """Return the table of all metrics of the models of the run, as they are."""
    rows = named(complete(run.frame))
    rows = rows[(rows["level"] == CLEAN) & (rows["split"] == "test") & (rows["metric"] != LOSS)]
    each = rows["scope"] == PER_USER  # these rank sampled candidates
    rows, note = (rows[~each], "") if not each.all() else (rows, "\n\nAmong the candidates of attacks per user.")
    wide = rows.drop_duplicates(["defense", "metric"]).pivot(index="defense", columns="metric", values="value")
    wide = wide.reindex(sorted(wide.index, key=lambda name: bare(name) != "none"))
    cells = [[label(name), *(f"{value:.4f}" for value in row)] for name, row in zip(wide.index, wide.to_numpy())]
    return markdown(cells, ["model", *(str(metric).upper() for metric in wide.columns)]) + note

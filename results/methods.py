"""Compares ways to harden a trained plain model under `rawp_radius: auto`, on validation data alone: methods.md.

    python results/methods.py run MODEL...    # trains the plain model where it is missing, hardens, attacks
    python results/methods.py page            # the table of methods.md, of methods.csv
    python results/methods.py half MODEL...    # the radius at which the plain model keeps half, for families/MODEL.yaml

The plain model is that of `recbole-rawp train --config_files=results/families/MODEL.yaml --defense=none`. Attacked is
by APGD along the training loss and along the ranking; the lower score counts, and it is that of the validation data.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd
from tabulate import tabulate

from recbole_rawp import files, run_recbole_rawp
from recbole_rawp.host import checkpoint
from recbole_rawp.host.preparation import prepare
from recbole_rawp.jobs.checkpoints import settings_of
from recbole_rawp.jobs.measuring import Findings, attack, check_attack
from recbole_rawp.jobs.trainers import make_trainer, ready
from results.build import fill

ALL = {"rawp_mask_probability": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "masks per epoch": {"rawp_mask_every": "epoch"},
    "masks per batch": {"rawp_mask_every": "batch"},
    "noise": ALL | {"rawp_direction": "noise"},
    "1 step": ALL,
    "2 steps": ALL | {"rawp_steps": 2},
    "last": ALL | {"rawp_start": "last"},
    "free": ALL | {"rawp_start": "free"},
}
RADII = [0.05, 0.1, 0.2]
RUNS, CSV, PAGE = HERE.parent / "runs" / "methods", HERE / "methods.csv", HERE / "methods.md"


def plain_model(model: str) -> Path:
    """Return the checkpoint of the plain model, trained where it is missing."""
    folder = RUNS / model
    if not (folder / "report.md").exists():  # a killed one leaves model.pth, too
        given = {"defense": "none", "attack": ["noise"], "attack_radii": [0.1], "rawp_output_dir": str(folder)}
        run_recbole_rawp(config_file_list=[str(HERE / "families" / f"{model}.yaml")], config_dict=given, argv=[])
    return folder / "model.pth"


def half(model: str) -> float:
    """Return the radius at which the plain model keeps half of its valid score, by bisection of its logarithm."""
    low, high = 0.002, 1.0
    while high / low > 1.1:
        radius = (low * high) ** 0.5
        row = measured(model, "plain", [radius])
        zero = guessing(row["metric"])
        keeps = (row[f"{radius:g}"] - zero) / (row["clean"] - zero) >= 0.5
        low, high = (radius, high) if keeps else (low, radius)
    return float(f"{(low * high) ** 0.5:.2g}")


def guessing(metric: str) -> float:
    """Return the score of guessing, from which a share counts."""
    return 0.5 if metric == "auc" else 0.0


def measured(model: str, method: str, radii: list[float] = RADII) -> dict[str, Any]:
    """Return the row of a model that was hardened so."""
    file = plain_model(model)
    content = checkpoint.read(file)
    given = {"defense": "none" if method == "plain" else "rawp_reference", "ft_rounds": 0, "attack": ["apgd"]}
    given |= {"rawp_radius": 0.1 if method == "plain" else "auto", "attack_radii": radii} | METHODS[method]
    config = settings_of(content, None, given, ours={}, argv=[])
    data, network = prepare(config)
    data = data._replace(test=data.valid)
    candidates = check_attack(config, network, data)
    checkpoint.load_into(network, content)
    trainer = make_trainer(config, network, RUNS / f"{model}-{method.replace(' ', '-')}", data)
    begun, search = time.process_time(), None
    if method == "plain":
        ready(trainer, data)
    else:
        trainer.take_plain_model(content)
        trainer.fit(data.train, data.valid, saved=False, show_progress=False)
        search = trainer.state.search
    seconds, findings = time.process_time() - begun, Findings()
    attack(trainer, data, candidates, findings)
    name = config["valid_metric"].lower()
    scores: dict[float, float] = {}
    for record in findings.records:
        if record.metric == name:
            scores[record.level] = min(record.value, scores.get(record.level, record.value))
    radius = search.chosen.radius if search and search.chosen.passed else 0.0
    row = {"model": config["model"], "method": method, "seed": config["seed"], "metric": name, "radius": radius}
    row["needed"] = search.needed if search else float("nan")
    return row | {"seconds": seconds, "clean": scores.pop(0.0)} | {f"{level:g}": v for level, v in scores.items()}


def rows() -> list[dict[str, Any]]:
    """Return the rows that there are."""
    return pd.read_csv(CSV).to_dict("records") if CSV.exists() else []


def run(models: list[str]) -> None:
    """Add the rows of these models that are missing."""
    for model in models:
        for method in METHODS:
            if not any((row["model"].lower(), row["method"]) == (model, method) for row in rows()):
                new = measured(model, method)
                table = pd.DataFrame([*rows(), new])  # read again: another process may have added to them
                files.whole(CSV, lambda file, table=table: table.to_csv(file, index=False))


def page() -> None:
    """Write the table into the page."""
    lines = []
    for row in sorted(rows(), key=lambda row: row["model"]):
        zero = guessing(row["metric"])
        kept = [f"{(row[f'{level:g}'] - zero) / (row['clean'] - zero):.0%}" for level in RADII]
        plain = row["method"] == "plain"
        found = (
            ["", ""] if plain else [f"{row['radius']:.3g}" if row["radius"] else "none kept", f"{row['seconds']:.0f}"]
        )
        lines.append([row["model"], row["method"], f"{row['clean']:.4f}", *kept, *found])
    heads = ["model", "method", "clean", *(f"kept at {level:g}" for level in RADII), "radius found", "CPU s"]
    table = tabulate(lines, heads, tablefmt="github", disable_numparse=True)
    files.write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), {"methods": table}))


if __name__ == "__main__":
    if sys.argv[1] == "half":
        print(*(f"{model}: {half(model):g}" for model in sys.argv[2:]), sep="\n")
    else:
        run(sys.argv[2:]) if sys.argv[1] == "run" else page()

"""Does rawp_radius: auto find the radius that a search by hand finds?  Five models of different depth, on ml-100k.

    python results/auto_radius.py run neumf dcn kgcn sasrec mlp   # search by hand, then three seeds on test data
    python results/auto_radius.py table                           # auto-radius.csv, auto-radius.png and the tables

By hand: one training per radius of `RADII`, seed 2020; the most robust on validation data of those that keep 99 % of
the plain model's best valid score. What is finished is kept, in runs/auto.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recbole_rawp import files

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
ARGUMENTS, sys.argv[1:] = sys.argv[1:], []
warnings.filterwarnings("ignore")

import matplotlib
import pandas as pd
import torch
from recbole.utils import get_trainer
from tabulate import tabulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from collect import spread
from families import valid_scores

from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.jobs import measuring
from recbole_rawp.report import curves
from recbole_rawp.training.ft_trainer import RAWPFTTrainer
from recbole_rawp.training.registration import robustify

HOME = Path("runs/auto")
SEEDS = (2020, 2021, 2022)
BUDGET = 0.01
SHALLOW, DEEP = (0.03, 0.1, 0.3, 1.0), (0.003, 0.01, 0.03)
RADII = {"kgcn": SHALLOW, "neumf": SHALLOW, "dcn": SHALLOW, "sasrec": SHALLOW, "mlp": DEEP}
WEIGHTS = {"kgcn": 1, "neumf": 3, "dcn": 3, "sasrec": 6, "mlp": 7}  # perturbed ones
MORE = {  # than in families/MODEL.yaml; learning rates as found there
    "kgcn": {"learning_rate": 0.01, "eval_step": 1, "rawp_clean_weight": 0.0},
    "neumf": {
        "learning_rate": 0.003,
        "eval_step": 1,
        "rawp_clean_weight": 0.0,
        "rawp_mask_every": "epoch",
    },
    "dcn": {"learning_rate": 0.003, "eval_step": 1, "rawp_clean_weight": 1.0, "rawp_mask_every": "batch"},
    "sasrec": {"learning_rate": 0.01, "eval_step": 1},
    "mlp": {},
}


def make(name: str, folder: Path, own: dict[str, Any]) -> tuple[RAWPFTTrainer, Data]:
    """Return the trainer of a model on its data, its files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = HERE / ("auto" if name == "mlp" else "families") / f"{name}.yaml"
    more = {"epochs": 100, "stopping_step": 10, "checkpoint_dir": str(folder), "rawp_clean_budget": BUDGET}
    config = RAWPConfig(config_file_list=[str(file)], config_dict={**MORE[name], **more, **own})
    data, model = prepare(config)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's sequential models switches it on
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.saved_model_file = str(folder / "model.pth")
    return trainer, data


def home(name: str, own: dict[str, Any]) -> Path:
    """Return the folder of a model that is trained with these options."""
    return HOME / name / f"{own.get('rawp_radius', 'plain')}-{own['seed']}"


def trained(name: str, own: dict[str, Any]) -> tuple[RAWPFTTrainer, Data, dict[str, Any]]:
    """Train, unless that was done before, and put the best model back."""
    folder = home(name, own)
    trainer, data = make(name, folder, own)
    file = folder / "trained.json"
    if not file.exists():
        files.write_text(file, json.dumps(training(trainer, data, {"name": name, **own})))
    checkpoint.load_into(trainer.model, checkpoint.read(trainer.saved_model_file))
    return trainer, data, json.loads(file.read_text())


def training(trainer: RAWPFTTrainer, data: Data, about: dict[str, Any]) -> dict[str, Any]:
    """Train, and return what is to be kept of it."""
    begun = time.process_time()
    score, _ = trainer.fit(data.train, data.valid, verbose=False, saved=True)
    about |= {"seconds": time.process_time() - begun, "valid": float(score)}
    if trainer.search is not None:
        about |= {"found": trainer.search.chosen["radius"], "path": trainer.search.path}
        about |= {"plain": trainer.search.plain, "needed": trainer.search.needed()}
    place = environment.describe(trainer.device).splitlines()
    return about | {"place": "\n".join([f"command: results/auto_radius.py {' '.join(ARGUMENTS)}", *place[1:]])}


def trial(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """Train from the first seed and note the valid scores."""
    own = {"seed": SEEDS[0], **own}
    file = home(name, own) / "trial.json"
    if file.exists():
        return json.loads(file.read_text())
    trainer, data, about = trained(name, own)
    about["robust"] = valid_scores(trainer, data)["robust"]
    files.write_text(file, json.dumps(about))
    print(
        f"{name} {file.parent.name}: "
        f"valid {about['valid']:.4f}, robust {about['robust']:.4f}, {about['seconds']:.0f} s",
        flush=True,
    )
    return about


def trials(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what the plain model and each radius of the search by hand came to."""
    plain = trial(name, {"defense": "none"})
    return plain, [trial(name, {"defense": "rawp", "rawp_radius": radius}) for radius in RADII[name]]


def by_hand(name: str) -> float:
    """Return the radius that a search by hand chooses; if none keeps the budget, the best clean one."""
    plain, rows = trials(name)
    fit = [row for row in rows if row["valid"] >= (1 - BUDGET) * plain["valid"]]
    best = max(fit, key=lambda row: row["robust"]) if fit else max(rows, key=lambda row: row["valid"])
    return best["rawp_radius"]


def test(name: str, label: str, own: dict[str, Any]) -> None:
    """Train and measure on test data under attack, once."""
    file = home(name, own) / "run.json"
    if file.exists():
        return
    trainer, data, about = trained(name, own)
    candidates = measuring.check_attack(trainer.config, trainer.model, data)
    findings = measuring.Findings()
    measuring.attack(trainer, data, candidates, findings)
    about |= {"label": label, "metric": trainer.valid_metric}
    about |= {"checks": [asdict(check) for check in findings.checks], "records": findings.records}
    files.write_text(file, json.dumps(about))
    print(f"{name} {label} {own['seed']}: found {about.get('found')}, {about['seconds']:.0f} s", flush=True)


def run(name: str, seed: int) -> None:
    """Do the trainings of one model from one seed; before the first, the search by hand."""
    radius = by_hand(name)
    test(name, "plain", {"seed": seed, "defense": "none"})
    test(name, "hand", {"seed": seed, "defense": "rawp", "rawp_radius": radius})
    test(name, "auto", {"seed": seed, "defense": "rawp", "rawp_radius": "auto"})


def finished() -> list[dict[str, Any]]:
    """Return all runs on test data."""
    return [json.loads(file.read_text()) for name in RADII for file in sorted((HOME / name).glob("*-20??/run.json"))]


def present() -> list[str]:
    """Return the models that are finished."""
    return [name for name in RADII if any((HOME / name).glob("auto-20??/run.json"))]


def scores(run: dict[str, Any]) -> dict[str, float]:
    """Return clean score, mean share kept over the radii under the stronger attack, and under noise, of a run."""
    frame = pd.DataFrame(run["records"])
    frame = frame[frame["metric"] == run["metric"]].drop_duplicates(["attack", "radius"], keep="last")
    wide = frame.pivot(index="attack", columns="radius", values="value")
    shares = curves.shares(wide, bigger=True, metric=run["metric"]).drop(columns=0.0)
    return {
        "clean": float(wide.loc["bim", 0.0]),
        "kept": float(shares.loc[["fgsm", "bim"]].min().mean()),
        "noise": float(shares.loc["random"].mean()),
    }


def tables() -> str:
    """Return the table of results, and that of the searches by hand."""
    lines, tried = [], []
    for name in present():
        runs = [run for run in finished() if run["name"] == name]
        found = {label: [run for run in runs if run["label"] == label] for label in ("plain", "hand", "auto")}
        base = {run["seed"]: scores(run)["clean"] for run in found["plain"]}
        for label, own in found.items():
            values = pd.DataFrame([scores(run) for run in own])
            cost = pd.Series([1 - scores(run)["clean"] / base[run["seed"]] for run in own])
            radius = " ".join(f"{run.get('found', run.get('rawp_radius', 0)):.3g}" for run in own)
            half = f" ± {4.303 * cost.std() / len(cost) ** 0.5:.1%}" if len(cost) == 3 else ""
            lines.append(
                [
                    *((own[0]["metric"].upper(), name, WEIGHTS[name]) if label == "plain" else ("", "", "")),
                    label,
                    radius if label != "plain" else "",
                    spread(values["clean"], ".4f"),
                    f"{cost.mean():.1%}{half}" if label != "plain" else "",
                    f"{values['kept'].mean():.0%} ({values['kept'].min():.0%} to {values['kept'].max():.0%})",
                    f"{values['noise'].mean():.0%}",
                    f"{pd.Series([run['seconds'] for run in own]).mean():.0f}",
                ]
            )
        plain, rows = trials(name)
        for row in (plain, *rows):
            label = f"radius {row['rawp_radius']:g}" if row is not plain else "plain"
            tried.append([name, label, f"{row['valid']:.4f}", f"{row['robust']:.4f}", f"{row['seconds']:.0f}"])
    headers = ["metric", "model", "weights", "radius", "gamma", "clean", "clean cost", "kept", "noise", "s"]
    first = tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
    return first + "\n\n" + tabulate(tried, headers=["model", "tried", "valid", "robust", "s"], tablefmt="github")


def picture() -> None:
    """Draw the path of the radius and the valid score, a column per model; one line per seed."""
    names = present()
    figure, axes = plt.subplots(2, len(names), figsize=(3.2 * len(names), 5.5), sharex="col", layout="constrained")
    for (upper, lower), name in zip(axes.T, names):
        for run in [run for run in finished() if run["name"] == name and run["label"] == "auto"]:
            path = pd.DataFrame(run["path"])
            line = upper.plot(path["epoch"], path["radius"], linewidth=1, label=run["seed"])[0]
            chosen = path[path["chosen"]]
            upper.plot(chosen["epoch"], chosen["radius"], marker="*", markersize=12, color=line.get_color())
            lower.plot(path["epoch"], path["score"], linewidth=1, color=line.get_color())
            lower.axhline(run["needed"], linewidth=0.7, linestyle=":", color=line.get_color())
        hand = next(run["rawp_radius"] for run in finished() if run["name"] == name and run["label"] == "hand")
        upper.axhline(hand, color="black", linestyle="--", linewidth=0.8, label="by hand")
        upper.set_yscale("log")
        upper.set_title(name)
        lower.set_xlabel("epoch")
    axes[0, 0].set_ylabel("radius tried; star: chosen")
    axes[1, 0].set_ylabel("valid score; dotted: the budget")
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "auto-radius.png", dpi=120)


def main() -> None:
    """Do what the command line says."""
    torch.set_num_threads(1)
    if ARGUMENTS[0] == "run":
        for seed in SEEDS:
            for name in ARGUMENTS[1:]:
                run(name, seed)
        return
    rows = [{**record, "run": run["label"]} for run in finished() for record in run["records"]]
    pd.DataFrame(rows).to_csv(HERE / "auto-radius.csv", index=False)
    picture()
    broken = [
        f"{r['name']} {r['label']} {r['seed']}: {c['name']}"
        for r in finished()
        for c in r["checks"]
        if c["status"] == "failed"
    ]
    print(tables(), f"failed self-checks: {broken}", sep="\n\n")


if __name__ == "__main__":
    main()

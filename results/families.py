"""What does hardening cost and buy in each family of models?  One model of each, plain and hardened, on ml-100k.

    python results/families.py search neumf dcn        # settings, by validation data of seed 2020
    python results/families.py run none 2020 neumf dcn # a defense, a seed, models: test data, under attack
    python results/families_table.py                   # all of it -> families.csv, families.png and the tables

What is finished is kept, in runs/families. `search` chooses the learning rate by the plain model's valid score; then
the radius, tried upward until the clean score falls below `KEPT`, and the recipe of stage 1; then that of stage 2.
It writes them to families/MODEL-found.yaml, which `run` reads beside families/MODEL.yaml. Robust: the mean over radii
of the valid score under the stronger of FGSM and BIM.
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
ARGUMENTS = sys.argv[1:]
warnings.filterwarnings("ignore")

import torch
import yaml
from recbole.utils import get_trainer

from recbole_rawp.config import settings as options
from recbole_rawp.config.properties import defaults
from recbole_rawp.evaluation import robustness
from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import Data, prepare
from recbole_rawp.jobs import measuring
from recbole_rawp.training.ft_trainer import RAWPFTTrainer
from recbole_rawp.training.registration import robustify

HOME = Path("runs/families")
SEED = 2020  # of the search
LEARNING_RATES = (0.003, 0.01)
RADII = (0.03, 0.1, 0.3, 1.0)
KEPT = 0.98  # of plain's clean valid score that a radius must keep
REPAIRS: dict[str, dict[str, Any]] = {
    "shipped": {},
    "several steps": {  # results/repair.md
        "ft_modules": 99,
        "ft_steps": 2,
        "ft_epochs": 2,
        "ft_learning_rate": 0.03,
        "ft_radius": 0.3,
        "ft_attack_steps": 3,
    },
}


def make(name: str, folder: Path, own: dict[str, Any], found: bool = True) -> tuple[RAWPFTTrainer, Data]:
    """Return the trainer of a model on its data, its files in `folder`."""
    files = [HERE / "families" / f"{name}.yaml", HERE / "families" / f"{name}-found.yaml"]
    folder.mkdir(parents=True, exist_ok=True)
    config = RAWPConfig(
        config_file_list=[str(file) for file in files[: 1 + found]],
        config_dict={"checkpoint_dir": str(folder), **own},
    )
    data, model = prepare(config)
    torch.autograd.set_detect_anomaly(False)  # importing RecBole's sequential models switches it on
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.saved_model_file = str(folder / "model.pth")
    return trainer, data


def valid_scores(trainer: RAWPFTTrainer, data: Data) -> dict[str, Any]:
    """Return the valid score of the model as it is: clean, under each attack, and robust."""
    settings = options.attack(trainer.config)
    outcome = robustness.under_attack(
        trainer,
        data.train,
        data.valid,
        threats=settings.threats,
        batches=settings.batches,
        defense=trainer.settings.defense,
        split="valid",
    )
    rows = [row for row in outcome.records if row["metric"] == trainer.valid_metric]
    values = {(row["attack"], row["radius"]): row["value"] for row in rows}
    radii = sorted({radius for _, radius in values if radius > 0})
    worst = [min(values["fgsm", radius], values["bim", radius]) for radius in radii]
    attacked = {f"{attack} {radius:g}": value for (attack, radius), value in values.items() if radius > 0}
    return {"clean": values["bim", 0.0], "robust": sum(worst) / len(worst), "attacked": attacked}


def trial(name: str, label: str, own: dict[str, Any], start: Path | None = None) -> dict[str, Any]:
    """Train, or repair what lies at `start`, measure on valid data and note it; return what was noted."""
    folder = HOME / name / "search" / label
    file = folder / "trial.json"
    if file.exists():
        return json.loads(file.read_text())
    trainer, data = make(name, folder, {"seed": SEED, **own}, found=False)
    begun = time.process_time()
    if start is not None:
        checkpoint.load_into(trainer.model, checkpoint.read(start))
        trainer.skip_stage_1 = True
    trainer.fit(data.train, data.valid, saved=start is None)
    seconds = time.process_time() - begun
    if start is None:
        checkpoint.load_into(trainer.model, checkpoint.read(trainer.saved_model_file))
    noted = {"label": label, "options": own, "seconds": seconds, "epochs": len(trainer.train_loss_dict)}
    noted |= {"best_epoch": best_epoch(trainer), **valid_scores(trainer, data), "place": place(trainer)}
    files.write_text(file, json.dumps(noted))
    print(f"{name} {label}: clean {noted['clean']:.4f} robust {noted['robust']:.4f}, {seconds:.0f} s", flush=True)
    return noted


def best_epoch(trainer: RAWPFTTrainer) -> int:
    """Return how many epochs the best model of stage 1 was trained, as far as validations tell."""
    return max(trainer.train_loss_dict, default=-1) + 1 - trainer.cur_step * trainer.eval_step


def place(trainer: RAWPFTTrainer) -> str:
    """Say where it was run: the first line is the command."""
    described = environment.describe(trainer.device).splitlines()
    return "\n".join([f"command: results/families.py {' '.join(ARGUMENTS)}", *described[1:]])


def best(rows: list[dict[str, Any]], plain: dict[str, Any]) -> dict[str, Any]:
    """Return the most robust of those that keep enough of plain's clean score; if none does, the best clean one."""
    fit = [row for row in rows if keeps(row, plain)]
    return max(fit, key=lambda row: row["robust"]) if fit else max(rows, key=lambda row: row["clean"])


def keeps(row: dict[str, Any], plain: dict[str, Any]) -> bool:
    """Tell whether enough of plain's clean valid score is left."""
    return row["clean"] >= KEPT * plain["clean"]


def search(name: str) -> None:
    """Find learning rate, radius and recipes of one model, and write them down."""
    plains = [
        trial(name, f"plain, learning rate {rate:g}", {"defense": "none", "learning_rate": rate})
        for rate in LEARNING_RATES
    ]
    plain = max(plains, key=lambda row: row["clean"])
    rate = plain["options"]["learning_rate"]
    stage_1 = {"defense": "rawp", "learning_rate": rate}
    rows: list[dict[str, Any]] = []
    for radius in RADII:
        rows.append(trial(name, f"rawp, radius {radius:g}", {**stage_1, "rawp_radius": radius}))
        if not keeps(rows[-1], plain):
            break
    shipped = defaults(yaml.safe_load((HERE / "families" / f"{name}.yaml").read_text())["model"], "rawp")
    clean = shipped["rawp_clean_weight"]
    other = {"rawp_clean_weight": 1.0 - clean, "rawp_mask_every": "epoch" if clean else "batch"}
    radius = best(rows, plain)["options"]["rawp_radius"]
    label = f"rawp, radius {radius:g}, {'L(w + delta) alone' if clean else 'both losses'}"
    rows.append(trial(name, label, {**stage_1, "rawp_radius": radius, **other}))
    chosen = best(rows, plain)
    start = HOME / name / "search" / chosen["label"] / "model.pth"
    repairs = [
        trial(name, f"repair, {label}", {**chosen["options"], "ft_rounds": 1, **recipe}, start)
        for label, recipe in REPAIRS.items()
    ]
    repair = max(repairs, key=lambda row: row["robust"])
    own = {key: value for key, value in repair["options"].items() if key not in ("defense", "ft_rounds")}
    text = "# Chosen by results/families.py on validation data, seed 2020.\n" + yaml.safe_dump(own, sort_keys=False)
    files.write_text(HERE / "families" / f"{name}-found.yaml", text)


def run(name: str, defense: str, seed: int) -> None:
    """Train with the settings found, and measure on test data under attack, once."""
    folder = HOME / name / f"{defense}-{seed}"
    file = folder / "run.json"
    if file.exists():
        return
    trainer, data = make(name, folder, {"defense": defense, "seed": seed})
    candidates = measuring.check_attack(trainer.config, trainer.model, data)
    begun = time.process_time()
    trainer.fit(data.train, data.valid, saved=True)
    seconds = time.process_time() - begun
    checkpoint.load_into(trainer.model, checkpoint.read(trainer.saved_model_file))
    findings = measuring.Findings()
    measuring.attack(trainer, data, candidates, findings)
    about: dict[str, Any] = {"name": name, "defense": defense, "seed": seed, "seconds": seconds}
    about |= {"epochs": len(trainer.train_loss_dict), "place": place(trainer), "notes": findings.notes}
    if trainer.progress:
        about["stage_2_seconds"] = trainer.progress.seconds
        about["alpha"] = [row["alpha"] for row in trainer.progress.sweep if row["chosen"]]
        about["repaired"] = [row["module"] for row in trainer.progress.ranking if row["repaired"]]
    about |= {"checks": [asdict(check) for check in findings.checks], "records": findings.records}
    files.write_text(file, json.dumps(about))
    clean, hit = (
        next(
            r["value"]
            for r in reversed(findings.records)
            if (r["metric"], r["attack"], r["radius"]) == (trainer.valid_metric, "bim", radius)
        )
        for radius in (0.0, 0.2)
    )
    print(f"{name} {defense} {seed}: clean {clean:.4f}, bim 0.2 {hit:.4f}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Do what the command line says."""
    torch.set_num_threads(1)
    sys.argv = sys.argv[:1]
    if ARGUMENTS[0] == "search":
        for name in ARGUMENTS[1:]:
            search(name)
    else:
        _, defense, seed, *names = ARGUMENTS
        for name in names:
            run(name, defense, int(seed))


if __name__ == "__main__":
    main()

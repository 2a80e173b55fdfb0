"""Is stage 2 worth having?  Stage 1, stage 2, and as many gradient evaluations spent on more stage 1.

    python results/repair.py run neumf 2020        # one model and seed; what is finished is kept
    python results/repair.py collect neumf         # table for results/repair.md, and results/repair-neumf.csv

Variants of one model and seed, all from the same stage 1 (defense rawp):

    stage 1           the best epoch by the clean valid metric
    reference         stage 2 on the weakest module by the settings of properties/rawp.yaml, 5 epochs
    found             stage 2 by the recipe in FOUND
    more              stage 1 goes on from its last state for the gradient evaluations of `found`; best epoch as there
    more, as found    the same with the loss of `found`, and its choice by robust valid metric and tolerance

A gradient evaluation is one batch differentiated: ascent, descent, ranking and choosing all count. Everything is chosen
on validation data; test data are measured once per variant, at the end, clean and under FGSM and BIM in 10 steps.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
import warnings
from pathlib import Path

from recbole_rawp import files

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
WORDS, sys.argv = sys.argv[1:], sys.argv[:1]
warnings.filterwarnings("ignore")

import numpy as np
import pandas as pd
import torch
from collect import spread
from recbole.trainer.trainer import Trainer
from recbole.utils import get_trainer
from scipy.stats import ttest_rel
from tabulate import tabulate

from recbole_rawp.core import attack_loss, objective
from recbole_rawp.evaluation import checks, robustness
from recbole_rawp.host import checkpoint, environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.weights import perturbed_weights
from recbole_rawp.threats.adversarial.perturbation import Threat
from recbole_rawp.training.registration import robustify
from recbole_rawp.training.stage2.robust_score import Judge

RADII = (0.1, 0.2, 0.3, 0.5)
REFERENCE = {
    "ft_modules": 1,
    "ft_epochs": 5,
    "ft_radius": None,  # stage 1's
    "ft_steps": 1,
    "ft_learning_rate": 0.01,
    "ft_attack_steps": 1,
}
SHORT = {
    "ft_modules": 99,
    "ft_steps": 2,
    "ft_epochs": 2,
    "ft_learning_rate": 0.03,
    "ft_radius": 0.3,
    "ft_attack_steps": 3,
    "attack_batches": 5,
}
FOUND = {  # on validation data of seed 2020, see results/repair.md
    "neumf": {
        "ft_modules": 3,
        "ft_steps": 3,
        "ft_epochs": 3,
        "ft_learning_rate": 0.1,
        "ft_radius": 0.5,
        "ft_attack_steps": 5,
    },
    "sasrec": SHORT,
    # ConvNCF's loss is a sum over the batch, 512 times a mean: SHORT's SGD diverges; Adam has no scale.
    "convncf": SHORT | {"ft_learner": "adam", "ft_learning_rate": 0.001, "ft_weight_decay": 0.0},
}
counted = {"gradients": 0}


class Enough(Exception):
    """The budget is spent."""


def count_gradients() -> None:
    """Count each batch that is differentiated, by us (ascent, attack) or by RecBole's loop (descent)."""
    ours, descend = objective.gradients, Trainer._check_nan

    def gradients(*args, **kwargs):
        counted["gradients"] += 1
        return ours(*args, **kwargs)

    def check(self, loss):
        counted["gradients"] += 1
        return descend(self, loss)

    objective.gradients = attack_loss.gradients = gradients
    Trainer._check_nan = check


def make(name, seed, folder, **options):
    """Return the trainer on its data, files in `folder`."""
    config = RAWPConfig(
        config_file_list=[str(HERE / (f"{name}-ml-100k.yaml"))],
        config_dict={"seed": seed, "state": "error", "defense": "rawp", "checkpoint_dir": str(folder), **options},
    )
    data, model = prepare(config)
    trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model)
    trainer.saved_model_file = str(folder / "model.pth")
    return trainer, data


def stage_1(name, seed, home):
    """Train, or go on training."""
    trainer, data = make(name, seed, home)
    trainer.resume_file = home / "resume.pt"
    if trainer.resume_file.exists():
        trainer.resumed = torch.load(trainer.resume_file, weights_only=True)
    trainer.fit(data.train, data.valid)
    checkpoint.load_into(trainer.model, checkpoint.read(home / "model.pth"))
    return trainer, data, {"epochs": len(trainer.train_loss_dict), "seconds": trainer.seconds}


def stage_2(name, seed, home, options):
    """Repair stage 1's best model."""
    trainer, data = make(name, seed, home, ft_rounds=1, **options)
    checkpoint.load_into(trainer.model, checkpoint.read(home / "model.pth"))
    trainer.skip_stage_1 = True
    before = counted["gradients"]
    trainer.fit(data.train, data.valid, saved=False)
    progress = trainer.progress
    about = {
        "seconds": progress.seconds,
        "gradients": counted["gradients"] - before,
        "alpha": [row["alpha"] for row in progress.sweep if row["chosen"]],
        "repaired": [row["module"] for row in progress.ranking if row["repaired"]],
    }
    return trainer, data, about


def more(name, seed, home, budget, options, judged):
    """Go on with stage 1 from its last state, for at least `budget` gradient evaluations.

    Args:
        options: that differ from stage 1's.
        judged: whether to choose among its epochs (and stage 1's best) as stage 2 does.
    """
    trainer, data = make(name, seed, home / "more", **options)
    best = checkpoint.read(home / "model.pth")
    state = torch.load(home / "resume.pt", weights_only=True)
    done = max(state["counters"]["train_loss_dict"]) + 1
    state["counters"] |= {"start_epoch": done, "cur_step": 0}
    trainer.resumed = state | {"stage": 1}
    trainer.epochs, trainer.eval_step, trainer.stopping_step = done + 10**6, 1, 10**6
    judge = Judge(trainer, data.train, data.valid, perturbed_weights(trainer.model, "hidden"), trainer.fine_tuning)
    kept = dict(best["state_dict"])
    robust = None
    if judged:
        now = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        trainer.model.load_state_dict(kept)
        clean, robust = judge.clean(), judge.robust()
        trainer.model.load_state_dict(now)
    started, spent = time.perf_counter(), counted["gradients"]

    def after_epoch(epoch, score):
        nonlocal kept, robust
        if judged:
            found = judge.robust()
            better = judge.keeps(judge.clean(), of=clean) and judge.better(found, robust)
            robust = found if better else robust
        else:
            better = trainer.cur_step == 0
        if better:
            kept = {key: value.clone() for key, value in trainer.model.state_dict().items()}
        if counted["gradients"] - spent >= budget:
            raise Enough

    with contextlib.suppress(Enough):
        trainer.fit(data.train, data.valid, saved=False, callback_fn=after_epoch)
    about = {"seconds": time.perf_counter() - started, "gradients": counted["gradients"] - spent}
    about["epochs"] = max(trainer.train_loss_dict) + 1 - done
    trainer.model.load_state_dict(kept)
    return trainer, data, about


def threat(*methods):
    """Return the attacks by which the models are compared: global, on all hidden weights, tensor by tensor."""
    return Threat(methods, "hidden", "tensor", "relative", "global", "", 10, 1, (0.0, *RADII))


def measure(trainer, data):
    """Return NDCG@10 per user on test data: clean, and for each attack and radius."""
    found = robustness.under_attack(
        trainer, data.train, data.test, threats=(threat("random", "fgsm", "bim"),), batches=10, defense="x"
    ).users["global"]
    names = ["clean" if c["radius"] == 0 else f"{c['attack']} {c['radius']:g}" for c in found.cells]
    ndcg = found.values[:, found.metrics.index("ndcg@10")]
    return {name: users.tolist() for name, users in zip(names, ndcg)}


def self_checks(trainer, data):
    """Return the self-checks of the attack that failed, by its loss: a gradient, above noise, more steps no weaker."""
    outcome = robustness.under_attack(
        trainer, data.train, None, threats=(threat("random", "fgsm", "bim"),), batches=10, defense="x"
    )
    verdicts = checks.verify(outcome, None, decimals=4)
    return [f"{check.name}: {check.detail}" for check in verdicts if check.status == checks.FAILED]


def run(name, seed):
    """Run what is missing of one model and seed."""
    torch.set_num_threads(1)
    count_gradients()
    home = Path("runs/repair", f"{name}-{seed}")
    (home / "more").mkdir(parents=True, exist_ok=True)
    found = FOUND[name]
    judged = {key: found[key] for key in ("ft_radius", "ft_attack_steps", "attack_batches") if key in found}
    loss = {"rawp_steps": found["ft_steps"], "rawp_radius": found["ft_radius"], "rawp_mask_probability": 1.0}
    variants = {
        "stage 1": lambda: stage_1(name, seed, home),
        "reference": lambda: stage_2(name, seed, home, REFERENCE),
        "found": lambda: stage_2(name, seed, home, found),
        "more": lambda: more(name, seed, home, budget(home), {}, False),
        "more, as found": lambda: more(name, seed, home, budget(home), judged | loss, True),
    }
    for label, make_it in variants.items():
        file = home / f"{label}.json"
        known = json.loads(file.read_text()) if file.exists() else {}
        if "failed" in known:
            continue
        trainer, data, about = make_it()
        about |= {"place": environment.describe(trainer.device)} | known
        if "users" not in about:
            about["users"] = measure(trainer, data)
        about["failed"] = self_checks(trainer, data)
        files.write_text(file, json.dumps(about))
        clean, hit = (np.mean(about["users"][key]) for key in ("clean", "bim 0.3"))
        print(f"{name} {seed} {label}: clean {clean:.4f}, bim 0.3 {hit:.4f}, {about['seconds']:.0f} s", flush=True)


def budget(home):
    """Return the gradient evaluations that `found` took."""
    return json.loads((home / "found.json").read_text())["gradients"]


def collect(name):
    """Print the table of one model, and write the means per seed."""
    order = ["stage 1", "reference", "found", "more", "more, as found"]
    runs = sorted(Path("runs/repair").glob(f"{name}-*"))
    seen = {label: [json.loads((home / f"{label}.json").read_text()) for home in runs] for label in order}
    rows, records = [], []
    first = np.array([about["seconds"] for about in seen["stage 1"]])
    keys = ["clean", "random 0.5", *(f"{attack} {radius:g}" for attack in ("fgsm", "bim") for radius in RADII)]
    for label, abouts in seen.items():
        cells = [label]
        for key in keys:
            cells.append(spread(pd.Series([np.mean(about["users"][key]) for about in abouts]), ".4f"))
        ratio = np.array([about["seconds"] for about in abouts]) / first
        rows.append([*cells, f"{ratio.mean():.2f}"])
        for home, about in zip(runs, abouts):
            base = {"model": name, "seed": home.name.split("-")[1], "variant": label, "seconds": about["seconds"]}
            base |= {
                "gradients": about.get("gradients"),
                "alpha": about.get("alpha"),
                "repaired": about.get("repaired"),
            }
            records += [base | {"attack": key, "ndcg@10": np.mean(values)} for key, values in about["users"].items()]
    print(tabulate(rows, headers=["variant", *keys, "time / stage 1"], tablefmt="github", disable_numparse=True))
    pd.DataFrame(records).to_csv(HERE / f"repair-{name}.csv", index=False)
    print("\nPaired t-test over users (mean over seeds), difference and p:")
    for one, other in (
        ("reference", "stage 1"),
        ("reference", "more"),
        ("found", "stage 1"),
        ("found", "more"),
        ("found", "more, as found"),
    ):
        cells = []
        for key in keys:
            a, b = (np.mean([about["users"][key] for about in seen[label]], axis=0) for label in (one, other))
            p = ttest_rel(a, b).pvalue
            cells.append(f"{np.mean(a - b):+.4f} ({'n/a' if math.isnan(p) else f'{p:.2g}'})")
        print(f"| {one} - {other} | " + " | ".join(cells) + " |")
    print(
        "\n"
        + "\n".join(
            sorted(
                {
                    line
                    for abouts in seen.values()
                    for a in abouts
                    for line in a["place"].splitlines()
                    if "commit" in line
                }
            )
        )
    )
    for label, abouts in seen.items():
        for home, about in zip(runs, abouts):
            for failed in about.get("failed", ["self-checks were not run"]):
                print(f"{home.name} {label}: {failed}")


if __name__ == "__main__":
    run(WORDS[1], int(WORDS[2])) if WORDS[0] == "run" else collect(WORDS[1])

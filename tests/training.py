"""What the tests of whole trainings share: trainers as a run makes them, runs, and when models are the same."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from recbole.utils import get_trainer

from recbole_rawp import run_recbole_rawp
from recbole_rawp.evaluation import self_checks
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.training.registration import robustify

QUICK = {"attack": ["noise", "fgsm"], "attack_radii": [0.2], "attack_batches": 2, "criticality_steps": 2}
UNSURE = (  # on a data set of a few users, after an epoch or two
    self_checks.UNDERTRAINED,
    "the ranking loss hits the metric no less than the training loss",
)


def made(config, prepared=None):
    """Return a trainer that has not trained, and the data."""
    data, model = prepared or prepare(config)
    return robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(config, model), data


def fit(config, prepared=None):
    """Train and return (trainer, state_dict)."""
    trainer, data = made(config, prepared)
    trainer.fit(data.train, data.valid, saved=False)
    return trainer, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run(settings, model="NeuMF", *, saved=True, **overrides):
    """Do the whole job; the self-checks of the report must hold."""
    result = run_recbole_rawp(config_dict=settings(model, rawp_output_dir="out", **QUICK, **overrides), saved=saved)
    failed = [check for check in result["checks"] if check.status == "failed" and check.name not in UNSURE]
    failed = [check for check in failed if "(ranking loss)" not in check.detail]  # on which one step may overshoot
    assert not failed, [(check.name, check.detail) for check in failed]
    assert all(math.isfinite(record.value) for record in result["records"])
    assert Path("out/report.md").exists() and Path("out/model.pth").exists() == saved
    return result


def stage_1(settings, model="NeuMF", **overrides):
    return fit(RAWPConfig(config_dict=settings(model, ft_rounds=0, **overrides)))

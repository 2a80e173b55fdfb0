"""The numeric core works where RecBole is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
sys.modules.update(dict.fromkeys(["recbole", "ray", "pandas", "yaml", "matplotlib"]))  # importing them fails
import torch, recbole_rawp.threats
import recbole_rawp.threats.adversarial.per_user.hooked, recbole_rawp.threats.adversarial.per_user.engine_selection
from recbole_rawp.core import objective, overlay, selection
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
weights = selection.select(model, "hidden")
loss = objective.Objective(model, weights, objective.Recipe(radius=0.1), omega=dict.fromkeys(weights, 1.0),
                           generator=torch.Generator())(lambda x: model(x).square().mean(), torch.randn(5, 3))
loss.backward()
print(model[0].weight.grad.shape)
"""
ROOT = Path(__file__).parent.parent


def test_the_core_needs_torch_and_numpy_alone():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "torch.Size([4, 3])", done.stderr


def test_importing_everything_of_ours_imports_neither_ray_nor_recboles_quick_start():
    code = (
        "import sys, recbole_rawp.cli.main, recbole_rawp.jobs.train, recbole_rawp.training.trainer\n"
        "recbole_rawp.register()\n"
        "print([name for name in ('ray', 'recbole.quick_start') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr

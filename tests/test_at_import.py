"""Importing the package does nothing, and every way into it mends RecBole before RecBole needs it.

Each way is taken in a fresh process, in which no Config has been made, torch refuses objects and ray does not import.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from recbole.quick_start import run_recbole

from tests import zoo

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "recbole", "ray")
LOAD = """
import recbole_rawp
recbole_rawp.compat.apply()
from recbole.quick_start import load_data_and_model
from recbole.trainer import Trainer
config, model, _, train, valid, test = load_data_and_model({file!r})
trainer = Trainer(config, model)
trainer.eval_collector.data_collect(train)
result = trainer.evaluate(test, load_best_model=False)
print(type(model).__module__, {{name: float(value) for name, value in result.items()}})
"""
WAYS = {
    "a job": "from recbole_rawp import run_recbole_rawp\nprint(run_recbole_rawp(config_dict=SETTINGS)['test_result'])",
    "a trial": "from recbole_rawp import objective_function\nprint(objective_function(SETTINGS)['test_result'])",
    "register": """
import recbole_rawp
recbole_rawp.register()
from recbole.quick_start import run_recbole
print(run_recbole(config_dict=SETTINGS)['test_result'])
""",
    "a trainer": """
from recbole_rawp import RAWPConfig, RAWPFTTrainer
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model
config = RAWPConfig(config_dict=SETTINGS)
train, valid, test = data_preparation(config, create_dataset(config))
trainer = RAWPFTTrainer(config, get_model(config["model"])(config, train._dataset))
trainer.fit(train, valid, saved=False, show_progress=False)
print(trainer.evaluate(test, load_best_model=False))
""",
    "robustify": """
from recbole_rawp import compat, robustify
compat.apply()
import sys
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer
config = Config(config_dict=SETTINGS)
train, valid, test = data_preparation(config, create_dataset(config))
trainer = robustify(get_trainer(config["MODEL_TYPE"], config["model"]))(
    config, get_model(config["model"])(config, train._dataset)
)
trainer.fit(train, valid, saved=False, show_progress=False)
print(trainer.evaluate(test, load_best_model=False))
""",
}


def fresh(code, folder=None):
    """Return the last line that the code prints in a fresh process, where a file in `folder` comes before a package."""
    places = filter(None, (folder, ROOT, os.environ.get("PYTHONPATH")))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture
def no_ray(tmp_path):
    """A folder with a ray that does not import, as ray 2.6.3 on numpy 2."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "ray.py").write_text("raise AttributeError('np.bool8 was removed')")
    return folder


def test_the_package_imports_nothing_heavy_and_changes_nothing():
    code = f"""
import sys
finders = list(sys.meta_path)
import recbole_rawp
from recbole_rawp import InputError
assert sys.meta_path == finders and {{"compat", "register", "RAWPConfig"}} <= set(dir(recbole_rawp))
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert fresh(code) == "[]"


def test_importing_every_public_name_changes_nothing():
    code = """
import sys, torch, numpy, scipy.sparse
before = torch.load, numpy.__getattr__, vars(scipy.sparse.dok_matrix).keys(), [type(f) for f in sys.meta_path]
from recbole_rawp import *
from recbole_rawp.jobs.comparison import compare
from recbole_rawp.report import report
assert callable(register) and callable(compat.apply)
after = torch.load, numpy.__getattr__, vars(scipy.sparse.dok_matrix).keys(), [type(f) for f in sys.meta_path]
print(after[:3] == before[:3], [t.__module__ for t in after[3] if "recbole" in t.__module__])
"""
    assert fresh(code) == "True []"


MLP = [("a trainer", "MLP"), ("robustify", "MLP")]  # a network of ours


@pytest.mark.parametrize(("way", "model"), [*((way, "DCN") for way in WAYS), *MLP])
def test_every_way_in_trains_and_tests(way, model, settings, no_ray):
    options = settings(model, epochs=1, ft_epochs=1, attack=["fgsm"], attack_radii=[0.1], attack_batches=1)
    if model == "MLP":  # of six layers unless told otherwise
        options |= {"mlp_hidden_size": [8, 4], "rawp_warmup_epochs": 0}
    assert "(" in fresh(f"SETTINGS = {options!r}\n{WAYS[way]}", no_ray)


@pytest.mark.parametrize("model", ["DCN", "SASRec", "KSR"])
def test_recboles_checkpoint_reads_after_the_shims_alone(model, settings, zoo_path, no_ray):
    """DCN reads `np.long` when it is built, KSR vectors in double precision; the evaluator `np.float`."""
    ours = zoo.cases()["KSR"].config | {"data_path": zoo_path} if model == "KSR" else settings(model, epochs=1)
    result = run_recbole(config_dict=ours | {"checkpoint_dir": "theirs"})
    (file,) = Path("theirs").glob("*.pth")
    module, _, metrics = fresh(LOAD.format(file=str(file)), no_ray).partition(" ")
    assert module.startswith("recbole.model.") and ast.literal_eval(metrics) == dict(result["test_result"])

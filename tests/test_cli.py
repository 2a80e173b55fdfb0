"""Bad input gets one clear line and status 2, before any training, and good input a table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_rawp.cli.main import COMMANDS, main
from recbole_rawp.config import command_line

ROOT = Path(__file__).parent.parent


def run(*arguments, capsys=None):
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "NueMF", "-d", "ml-100k"], "model: RecBole has no model 'NueMF'. Did you mean 'NeuMF'?"),
        (["-m", "NeuMF"], "--dataset: missing"),
        (["-d", "ml-100k"], "--model: missing"),
        (["-m", "NeuMF", "-d", "ml-1m"], "Put ml-1m.inter into it, or set --data_path"),
        (["-m", "NeuMF", "-d", "no-such-data"], "Put no-such-data.inter into it"),
        (["-m", "NeuMF", "-d", "ml-100k", "--rawp_raduis=1"], "rawp_raduis: no such option. Did you mean 'rawp_rad"),
        (["-m", "NeuMF", "-d", "ml-100k", "--rawp_radius=-1"], "rawp_radius: -1 is not valid; expected float in (0,"),
        (["-m", "NeuMF", "-d", "ml-100k", "--rawp_radius=1e39"], "rawp_radius: 1e+39 is not valid; expected float"),
        (["-m", "NeuMF", "-d", "ml-100k", "--attack_radii=[1e30]"], "attack_radii: [1e+30] is not valid; expected"),
        (["-m", "NeuMF", "-d", "ml-100k", "--rawp_target=mpl*"], "pattern 'mpl*' matches no weight of NeuMF"),
        (["-m", "Pop", "-d", "ml-100k"], "model: Pop is not trained by gradient descent (it has no trained weights)"),
        (["-m", "EASE", "-d", "ml-100k"], "EASE is not trained by gradient descent (its weights have a closed form)"),
        (["-m", "XGBoost", "-d", "ml-100k"], "XGBoost is not trained by gradient descent (it is an ensemble"),
        (["-m", "BPR", "-d", "ml-100k"], "BPR has no hidden weight to perturb. Use --rawp_target=embeddings"),
        (["-m", "NeuMF", "-d", "ml-100k", "--rawp_output_dir=used"], "rawp_output_dir: 'used' is in use"),
        (["report", "used", "--rawp_output_dir=2026"], "rawp_output_dir: 2026 is not valid; expected path or null"),
        (["compare", "--defenses=none", "--rawp_output_dir=[1]"], "rawp_output_dir: [1] is not valid; expected path"),
        (["-m", "NeuMF", "-d", "ml-100k", "--config_files=none.yaml"], "config_files: cannot read 'none.yaml'"),
        (["-m", "NeuMF", "-d", "ml-100k", "--epochs=1", "--epochs=2"], "--epochs: given twice, as 1 and 2"),
        (["-m", "NeuMF", "-d", "ml-100k", "--nproc=2"], "nproc: robustness is measured in one process"),
        (["-m", "NeuMF", "-d", "ml-100k", "--epochs"], "--epochs: no value given. Write --epochs=VALUE"),
        (["-m", "NeuMF", "-d"], "-d: no value given"),
        (["-m", "NeuMF", "-d", "ml-100k", "--baseline=foo"], "--baseline: 'foo' is neither true nor false"),
        (["-m", "NeuMF", "-d", "ml-100k", "--topk=5"], "valid_metric: 'MRR@10' is not measured; Recall@5"),
        (["-m", "NeuMF", "-d", "ml-100k", "--config_files", "a", "b"], "Quote several config files"),
        (["trian", "-m", "NeuMF", "-d", "ml-100k"], "'trian': not a command or option. Did you mean 'train'?"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2_before_any_training(arguments, message, capsys, monkeypatch):
    def offline(*_, **__):
        raise OSError("download denied")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("recbole_rawp.training.trainer.RAWPTrainer._train_epoch", lambda *_: pytest.fail("trained"))
    Path("used").mkdir()
    Path("used/file").touch()
    status, out, err = run(*arguments, "--state=error", capsys=capsys)
    errors = [line for line in err.splitlines() if line.startswith("recbole-rawp: ")]
    assert status == 2 and len(errors) == 1 and message in errors[0], err
    assert "Traceback" not in err and not out.strip()
    assert not Path("runs").exists() and not Path("dataset/ml-1m").exists()


def test_a_run_ends_with_the_table_and_the_pictures_path(data_path, capsys):
    status, out, err = run(
        *("train", "--model=NeuMF", "-d", "toy", f"--data_path={data_path}", "--epochs", "1", "--state=error"),
        *("--show_progress=False", "--baseline", "--attack_radii=[0.1]"),
        capsys=capsys,
    )
    assert status == 0, err
    assert re.search(r"\| plain +\| apgd ranking", out) and re.search(r"\| rawp_ft( repaired)? +\| noise", out)
    picture = out.strip().splitlines()[-1].split()[-1]
    assert picture.endswith("robustness.png") and Path(picture).exists()


def test_a_zero_gradient_is_said_aloud(data_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "recbole_rawp.core.losses.attack_loss.gradients",
        lambda loss, weights: {n: torch.zeros_like(w) for n, w in weights.items()},
    )
    status, out, _ = run(
        *(
            "-m",
            "NeuMF",
            "-d",
            "toy",
            f"--data_path={data_path}",
            "--epochs=1",
            "--state=error",
            "--show_progress=False",
        ),
        "--attack_radii=[0.1]",
        capsys=capsys,
    )
    assert status == 0 and re.search(r"SELF-CHECK FAILED \(rawp_ft.*\): the attack has a gradient", out)


def test_help_lists_every_option_and_warns_of_pickles(capsys):
    status, out, _ = run("--help", capsys=capsys)
    assert status == 0 and "rawp_mask_probability: 0.5" in out and "more than RecBole's need is refused" in out


def test_every_option_of_the_command_line_alone_belongs_to_a_command():
    assert {key for command in COMMANDS.values() for key in command.own} == command_line.COMMAND_LINE_ONLY


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_what_only_prints_imports_nothing_heavy(word):
    code = f"import sys; from recbole_rawp.cli.main import main; main([{word!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    heavy = {"torch", "numpy", "pandas", "scipy", "matplotlib", "recbole", "jinja2", "markdown_it"}
    assert done.returncode == 0 and not heavy & set(done.stdout.splitlines()[-1].split()), done.stderr


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "recbole_rawp", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert re.fullmatch(r"recbole-rawp \d+\.\d+\.\d+\n", done.stdout), done.stderr


def test_the_script_of_the_source_tree_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "run_recbole_rawp.py", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.fullmatch(r"recbole-rawp \d+\.\d+\.\d+\n", done.stdout), done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"'{sys.executable}' '{ROOT}/run_recbole_rawp.py' --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("recbole-rawp trains") and done.stderr == ""

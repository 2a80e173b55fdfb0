"""Bad input gets one clear line and status 2, before any training, and good input a table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recbole_rawp.cli.commands.listing import WHAT
from recbole_rawp.cli.main import COMMANDS, main
from recbole_rawp.config import command_line
from recbole_rawp.config.schema import OPTIONS, SECTIONS
from recbole_rawp.config.suites import suites
from recbole_rawp.threats.threat import KINDS

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
        (["list", "modls"], "list: there is no list of 'modls'. Did you mean 'models'? Known: models, defenses,"),
        (["list"], "list: name one of models, defenses, suites, threats, options, as in `recbole-rawp list defenses`"),
        (["list", "models", "-m", "NeuMF"], "--model: list takes no option"),
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


@pytest.mark.parametrize("words", [[], ["--help"], ["-h", "nonsense"]])
def test_without_a_command_the_help_lists_them_and_warns_of_pickles(words, capsys):
    status, out, _ = run(*words, capsys=capsys)
    assert status == 0 and "more than RecBole's need is refused" in out and "--rawp_radius" not in out
    assert all(re.search(rf"^    {name} +\w", out, re.MULTILINE) for name in COMMANDS)


def test_the_help_of_a_command_has_its_options_alone(capsys):
    found = {name: set(re.findall(r"--(\w+)", run(name, "--help", capsys=capsys)[1])) for name in COMMANDS}
    assert found["train"] >= {*OPTIONS, "baseline", "resume", "model"} and found["harden"] >= OPTIONS.keys()
    assert {"attack_radii", "trust_checkpoint"} <= found["attack"] and "ft_epochs" not in found["attack"]
    assert {"criticality_steps"} <= found["rank"] and "attack" not in found["rank"]
    assert found["report"] == {"help", "OPTION", "rawp_output_dir"} and "seeds" in found["compare"]
    for name, command in COMMANDS.items():
        assert all(example.startswith(f"{name} ") for example in command.examples)
        assert {*command.sections} <= {section.title.partition(":")[0] for section in SECTIONS}


def test_list_prints_what_there_is(capsys):
    listed = {what: run("list", what, capsys=capsys)[1].splitlines() for what in WHAT}
    names = {what: [line.split()[0].rstrip(":") for line in lines] for what, lines in listed.items()}
    assert names["options"] == list(OPTIONS) and {"NeuMF", "MLP", "Pop"} <= {*names["models"]}
    assert "Pop" in " ".join(listed["models"]).partition("not trained by gradient descent (it has no")[0]
    assert names["defenses"] == sorted(file.stem for file in (ROOT / "properties/defense").glob("*.yaml"))
    assert names["suites"] == suites() and {*names["threats"]} == {name for name in KINDS if "_worst" not in name}
    assert all(len(line.split(maxsplit=1)) == 2 for what in ("defenses", "suites", "threats") for line in listed[what])


def test_a_shell_completes_commands_options_and_values(tmp_path):
    def completed(line):
        asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
        answers = tmp_path / "answers"
        asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(answers), "_ARGCOMPLETE_IFS": "\n"}
        subprocess.run([sys.executable, "-m", "recbole_rawp"], env=os.environ | asked, cwd=ROOT, timeout=60)
        return {word.strip().rpartition("=")[2] for word in answers.read_text().split("\n")}

    assert completed("recbole-rawp ha") == {"harden"}
    assert completed("recbole-rawp attack --attack_ra") == {"--attack_radii"}
    assert completed("recbole-rawp train --defense=rawp_f") >= {"rawp_ft", "rawp_ft_reference"}
    assert completed("recbole-rawp list su") == {"suites"}


def test_every_option_of_the_command_line_alone_belongs_to_a_command():
    assert {key for command in COMMANDS.values() for key in command.own} == command_line.COMMAND_LINE_ONLY


@pytest.mark.parametrize("word", ["--help", "--version", "-V", "rank --help", "list options", "list defenses"])
def test_what_only_prints_imports_nothing_heavy(word):
    code = f"import sys; from recbole_rawp.cli.main import main; main({word.split()!r}); print(*sys.modules)"
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
    assert done.stdout.startswith("usage: recbole-rawp COMMAND ...") and done.stderr == ""


@pytest.mark.parametrize("typed, threads", [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_commands_take_one_thread_unless_the_environment_says_otherwise(typed, threads):
    code = "from recbole_rawp.cli.main import main; main(['-V']); import torch; print(torch.get_num_threads())"
    others = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, env=others | typed)
    assert done.stdout.split()[-1] == threads, done.stderr

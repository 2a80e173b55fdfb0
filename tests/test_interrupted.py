"""Does Ctrl-C say what goes on, torchrun do nothing several times, and a report pass over what is no run?"""

from __future__ import annotations

from pathlib import Path

import pytest
from recbole.trainer.trainer import Trainer

from recbole_rawp import run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.jobs import attack, rank


def words(command, settings, *more):
    """Return the words of a command on the toy data."""
    shared = ("data_path", "state", "show_progress", "train_batch_size", "eval_batch_size")
    options = settings("NeuMF", show_progress=False)
    return [*command, *(f"--{key}={options[key]}" for key in shared), *more]


def stopped(*_, **__):
    raise KeyboardInterrupt


def interrupted(words, capsys):
    """Run a command that is interrupted; return the line."""
    assert main(words) == 130
    error = capsys.readouterr().err.strip()
    assert error.startswith("recbole-rawp: interrupted. ") and "\n" not in error, error
    return error


def test_ctrl_c_is_one_line_with_the_command_that_goes_on(settings, monkeypatch, capsys):
    small = ("--epochs=1", "--defense=none", "--attack=[fgsm]", "--attack_batches=1", "--attack_radii=[0.1]")
    train = words(["train", "-m", "NeuMF", "-d", "toy"], settings, *small, "--rawp_output_dir=a run")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_check_nan", stopped)
        assert interrupted(train, capsys).endswith("Go on with: recbole-rawp train --resume='a run'")
        compare = ["compare", "--model=NeuMF", "--dataset=toy", "--defenses=none", "--seeds=1", *small[:1], *small[2:]]
        line = interrupted(words(compare, settings, "--rawp_output_dir=cmp"), capsys)
        assert line.endswith("Go on with: recbole-rawp compare --resume=cmp")
    with monkeypatch.context() as patch:  # before there is something to go on with
        patch.setattr("recbole_rawp.jobs.train.make_trainer", stopped)
        again = interrupted([*train[:-1], "--rawp_output_dir=new"], capsys)
        assert again.endswith("Give the same command again.") and not Path("new").exists()
    assert main(["train", "--resume=a run"]) == 0 and Path("a run/report.md").exists()
    for job, work, command in ((attack, "attack", "attack"), (rank.criticality, "rank", "rank")):
        with monkeypatch.context() as patch:
            patch.setattr(job, work, stopped)
            line = interrupted([command, "a run/model.pth", "--rawp_output_dir=other"], capsys)
        assert line.endswith("Give the same command again.") and not Path("other").exists()


def test_torchrun_is_refused_and_one_process_of_it_is_none(settings, monkeypatch, capsys):
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for command in (["train", "-m", "NeuMF", "-d", "toy"], ["rank", "x.pth"], ["report", "x"], ["convert", "x"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "torchrun: " in error and error.count("\n") == 1
    with pytest.raises(InputError, match="each of the 2 would do the whole job"):
        run_recbole_rawp(config_dict=settings("NeuMF"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["rank", "x.pth"]) == 2 and "there is no file 'x.pth'" in capsys.readouterr().err

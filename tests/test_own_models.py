"""Does a model class of the user's own work in every command and function, and is what is not found told in a line?"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch
import yaml

from recbole_rawp import attack_checkpoint, harden_checkpoint, rank_checkpoint, run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models import classes
from recbole_rawp.jobs.comparison import grid
from recbole_rawp.jobs.comparison.compare import compare
from recbole_rawp.report.pictures import curves
from tests import own_models
from tests.own_models import MyDeep
from tests.training import QUICK

NAME = "tests.own_models:MyDeep"


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Write empty pictures, which take half of the time of a small run."""
    monkeypatch.setattr(curves, "draw", lambda *_, **__: None)
    monkeypatch.setattr(curves, "write", lambda _, path, *__: Path(path).write_bytes(b""))


def given(settings, **overrides):
    """Return the settings of a small run, without its model."""
    one = {"epochs": 1, "defense": "rawp_reference", "my_width": 6, **QUICK, "attack": ["noise"], **overrides}
    return {key: value for key, value in settings("NeuMF", **one).items() if key != "model"}


def test_a_class_by_its_name_serves_every_command(settings):
    Path("own.yaml").write_text(yaml.safe_dump(given(settings)))
    assert main(["train", f"--model={NAME}", "--config_files=own.yaml", "--rawp_output_dir=out"]) == 0
    content = torch.load("out/model.pth", weights_only=False)
    assert content["config"]["model"] == "MyDeep" and content["config"].model_class is MyDeep
    assert content["state_dict"]["users.weight"].shape == (48, 6)
    assert yaml.safe_load(Path("out/settings.yaml").read_text())["model"] == NAME
    for command in ("rank", "harden"):
        more = ["--attack=[noise]", "--ft_epochs=1", f"--rawp_output_dir={command}"]
        assert main([command, "out/model.pth", *more]) == 0
    assert torch.load("harden/model.pth", weights_only=False)["config"].model_class is MyDeep


def test_a_class_that_python_does_not_find_is_passed_with_the_checkpoint(settings, monkeypatch, capsys):
    gone = types.ModuleType("gone_models")
    exec("from tests.own_models import MyDeep as Base\nclass Mine(Base): ...", vars(gone))
    monkeypatch.setitem(sys.modules, "gone_models", gone)
    trained = run_recbole_rawp(model=gone.Mine, config_dict=given(settings, rawp_output_dir="out"))
    monkeypatch.delitem(sys.modules, "gone_models")
    assert main(["rank", "out/model.pth"]) == 2
    assert "module 'gone_models' cannot be imported (ModuleNotFoundError" in capsys.readouterr().err
    for function in (attack_checkpoint, rank_checkpoint, harden_checkpoint):
        with pytest.raises(InputError, match="^model: MyDeep is asked for, but the checkpoint holds Mine"):
            function("out/model.pth", model=MyDeep)
    again = attack_checkpoint(
        "out/model.pth", config_dict=QUICK | {"attack": ["noise"], "rawp_output_dir": "again"}, model=gone.Mine
    )
    assert again["records"] == trained["records"]


def test_a_checkpoint_of_a_script_asks_for_the_scripts_name(settings, monkeypatch, capsys):
    script = types.ModuleType("__main__")
    script.__file__ = "/somewhere/mine.py"
    exec("from tests.own_models import MyDeep as Base\nclass Mine(Base): ...", vars(script))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", script)
        assert classes.spelled(script.Mine) == "mine:Mine" and classes.find("mine:Mine") is script.Mine
        run_recbole_rawp(model=script.Mine, config_dict=given(settings, rawp_output_dir="out"))
        content = torch.load("out/model.pth", weights_only=False)
        del content["config"].external_config_dict["model"]  # as RecBole saves it
        torch.save(content, "theirs.pth")
    assert main(["rank", "theirs.pth"]) == 2 and "--model=script:Mine" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "mine", script)
    assert main(["rank", "theirs.pth", "--model=mine:Mine"]) == 0 == main(["rank", "out/model.pth"])


def test_a_comparison_takes_classes_and_calls_them_by_their_names(settings):
    options = {key: v for key, v in given(settings).items() if key not in ("dataset", "defense", "my_width")}
    Path("mine.yaml").write_text("my_width: 4\n")
    found = compare([MyDeep], "toy", "none", 1, ["MyDeep:mine.yaml"], options, folder="all", argv=[])
    assert not found["failed"] and [row["folder"] for row in found["rows"]] == ["MyDeep-toy-none-2020"]
    assert torch.load("all/MyDeep-toy-none-2020/model.pth", weights_only=False)["config"]["my_width"] == 4
    assert compare(folder="all", argv=[])["output_dir"] == "all"
    assert yaml.safe_load(Path("all/comparison.yaml").read_text())["models"] == [NAME]
    one = grid.read(None, None, "none", 1, [], options | {"dataset": "toy", "model": MyDeep})
    assert one.models == (NAME,)
    with pytest.raises(InputError, match="^models: 'tests.own_models:Random' and 'Random' have the same name"):
        grid.read(["tests.own_models:Random", "Random"], "toy", "none", 1, [], options)


def test_a_users_model_is_not_taken_for_one_of_recboles_of_that_name(settings):
    config = RAWPConfig(own_models.Random, config_dict=given(settings))
    assert config["model"] == "Random" and config.model_class is own_models.Random


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("tests.own_models:MyDep", "'tests.own_models' has no 'MyDep'. Did you mean 'MyDeep'?"),
        ("nowhere.models:MyDeep", ".*module 'nowhere.models' cannot be imported .ModuleNotFoundError"),
        (":MyDeep", ".*module '' cannot be imported .ValueError"),
        ("__main__:MyDeep", "MyDeep is of a script. Name its file, as in --model=script:MyDeep."),
        ("MyDeep", "RecBole has no model 'MyDeep'.* One of your own is named package.module:Class"),
        ("tests.own_models:MyPop", "Pop is not trained by gradient descent .it has no trained weights."),
        ("tests.own_models:NoModel", "'tests.own_models:NoModel' is no RecBole model. Name a class that derives"),
        (own_models.NoModel, "<class 'tests.own_models.NoModel'> is no RecBole model"),
        (3, "3 is no RecBole model"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(settings, model, line):
    with pytest.raises(InputError, match=f"^model: {line}"):
        RAWPConfig(model, config_dict=given(settings))


def test_a_class_inside_a_function_trains_where_nothing_has_to_name_it(settings):
    class Mine(MyDeep):
        """One that no file can name."""

    with pytest.raises(InputError, match="^model: no checkpoint can name .*<locals>.Mine of tests.test_own_models"):
        run_recbole_rawp(model=Mine, config_dict=given(settings))
    assert not Path("runs").exists()
    assert run_recbole_rawp(model=Mine, config_dict=given(settings, rawp_output_dir="out"), saved=False)["records"]


@pytest.mark.parametrize(
    "last", ["import recbole_rawp; recbole_rawp.run_recbole_rawp(model=Mine)", "raise SystemExit(3)"]
)
def test_a_script_that_runs_when_it_is_imported_is_told(settings, last):
    Path("unguarded.py").write_text(f"from tests.own_models import MyDeep as Base\nclass Mine(Base): ...\n{last}\n")
    with pytest.raises(InputError, match="^model: .*(importing 'unguarded' begins a run|SystemExit: 3)"):
        RAWPConfig("unguarded:Mine", config_dict=given(settings))

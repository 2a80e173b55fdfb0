"""Does no pickle run code that is not admitted, and does a run go on only with the checkpoints that it wrote?"""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from recbole.config import Config
from torch import nn

from recbole_rawp import attack_checkpoint, continue_run, files, run_recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host import checkpoint
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.preparation import prepare
from recbole_rawp.host.unpickling import PICKLE, NotAdmitted, admitted

QUICK = {"attack": ["noise"], "attack_radii": [0.2], "attack_batches": 1}


class Mine(nn.Linear):
    """A user's own model."""


class Harm:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def spoilt(file, content):
    """Put something that runs code into a checkpoint."""
    torch.save(content | {"other_parameter": {"x": Harm()}}, file)
    return str(file)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["NeuMF", "FDSA", "DIN"])  # the latter two keep modules, one of them a data set
def test_what_recboles_checkpoints_are_made_of_is_read(name, protocol, settings):
    config = RAWPConfig(config_dict=settings(name, data_path=settings(name)["data_path"]))
    _, model = prepare(config)
    kept = {
        "state_dict": model.state_dict(),
        "other_parameter": model.other_parameter(),
        "epoch": 1,
        "mine": Mine(2, 3),
    }
    torch.save({"config": config, "place": Path("x"), **kept}, "x.pth", pickle_protocol=protocol)
    read = checkpoint.read("x.pth")
    assert read["config"]["model"] == name and read["state_dict"].keys() == kept["state_dict"].keys()
    assert bool(read["other_parameter"]) == (name != "NeuMF") and isinstance(read["mine"], Mine)


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "builtins.getattr", "__builtin__.eval", "torch.load", "functools.partial"),
        *("recbole.quick_start.quick_start.run_recbole", "recbole.utils.utils.init_seed", "not_imported.Model"),
        *("recbole.config.configurator.os", "torch.nn.modules.module.torch", "torch.storage._load_from_bytes"),
    ],
)
def test_what_they_do_not_need_is_not_admitted(name):
    module, _, last = name.rpartition(".")
    assert not admitted(module, last) and not admitted("recbole.config.configurator", name)


def test_a_pickle_that_runs_code_is_refused_by_name_in_every_command_unless_it_is_trusted(plain, capsys):
    file = spoilt("spoilt.pth", checkpoint.read(plain))
    for command in ("attack", "rank", "harden"):
        assert main([command, file]) == 2
        error = capsys.readouterr().err
        assert f"checkpoint: '{file}' holds posix.system, which no RecBole checkpoint needs" in error
        assert error.endswith("If you trust the file, say --trust_checkpoint.\n") and error.count("\n") == 1
    assert not Path("owned").exists() and not Path("runs").exists()
    with pytest.raises(InputError, match="posix.system"):
        attack_checkpoint(file)
    with pytest.raises(InputError, match="attack: "):  # so it has been read
        attack_checkpoint(file, config_dict={"attack": "none"}, trust_checkpoint=True)
    assert Path("owned").exists()
    Path("owned").unlink()
    assert main(["attack", file, "--attack=none", "--trust_checkpoint"]) == 2 and Path("owned").exists()
    capsys.readouterr()
    assert main(["rank", file, "--trust_checkpoint=yes"]) == 2
    assert "--trust_checkpoint: 'yes' is neither true nor false" in capsys.readouterr().err
    assert main(["report", "x", "--trust_checkpoint"]) == 2
    with open("x", "wb") as out, open(plain, "rb") as old:  # also in torch's old format
        torch.save(torch.load(old, weights_only=False) | {"x": Harm()}, out, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="posix.system"):
        checkpoint.read("x")


@pytest.mark.parametrize("typed, trusted", [({}, False), ({"dataset_save_path": "data.pth"}, False), ({}, True)])
def test_pickles_that_a_checkpoints_settings_name_are_not_loaded(typed, trusted, plain, caplog):
    content = checkpoint.read(plain)
    for name in ("data.pth", "loaders.pth", "theirs/toy-Dataset.pth"):
        Path(name).write_bytes(pickle.dumps(Harm()))
    theirs = {"dataset_save_path": "data.pth", "dataloaders_save_path": "loaders.pth", "save_dataset": True}
    content["config"].external_config_dict |= theirs
    torch.save(content, "named.pth")
    if typed or trusted:
        with pytest.raises(InputError, match="dataset"):
            attack_checkpoint("named.pth", config_dict=QUICK | typed, trust_checkpoint=trusted)
    else:
        attack_checkpoint("named.pth", config_dict=QUICK)
        assert "dataset_save_path: the checkpoint names 'data.pth', a pickle, which may run code" in caplog.text
        assert not Path("saved").exists()
    assert Path("owned").exists() == bool(typed or trusted)


def test_weights_that_a_checkpoints_settings_name_are_guarded(plain):
    content = checkpoint.read(plain)
    file = spoilt("spoilt.pth", content)
    weights = {"use_pretrain": True, "mf_pretrain_path": file, "mlp_pretrain_path": file}
    content["config"].external_config_dict |= weights
    torch.save(content, "named.pth")
    with pytest.raises(InputError, match=f"'{file}' holds posix.system, .*trust_checkpoint"):
        attack_checkpoint("named.pth")
    assert not Path("owned").exists()


class Called:
    """What calls a class that may be held, in whatever way a pickle can."""

    def __init__(self, kind, *arguments):
        self.call = kind, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_constructor_of_a_class_that_is_admitted_runs(protocol):
    evaluated = {"x": "open('owned', 'w').close()"}  # RecBole's Config evaluates words
    for wrong in (Called(Config, "BPR", "ml-100k", None, evaluated), Called(Mine, 2, 3)):
        content = {"config": wrong, "state_dict": {}, "epoch": 1}
        torch.save(content, "called.pth", pickle_protocol=protocol)
        with pytest.raises(InputError, match=r"holds a call of .*\.(Config|Mine), which no RecBole checkpoint needs"):
            checkpoint.read("called.pth")
        assert not Path("owned").exists()
    old = b"(S'BPR'\nS'ml-100k'\nN(dS'x'\nS\"open('owned', 'w').close()\"\nsirecbole.config.configurator\nConfig\n."
    with pytest.raises(NotAdmitted, match=r"a call of .*\.Config"):
        PICKLE.load(io.BytesIO(old))
    rebuilt = Called(copyreg._reconstructor, Config, Config, evaluated)  # which calls the second one
    with pytest.raises(NotAdmitted, match=r"a call of .*\.Config"):
        PICKLE.load(io.BytesIO(pickle.dumps(rebuilt)))
    assert not Path("owned").exists()


def test_a_kill_at_whatever_moment_leaves_a_file_that_is_noted(tmp_path):
    file, partial = tmp_path / "model.pth", tmp_path / "model.pth.partial"
    for content in ("one", "two"):
        partial.write_text(content)
        files.replace_noted(partial, file)
    for content in ("three", "four", "five"):  # noted, and killed before it was put into its place
        partial.write_text(content)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files.os, "replace", lambda one, to: shutil.move(one, to) if "digests" in str(to) else None)
            files.replace_noted(partial, file)
        assert file.read_text() == "two" and files.digest(file) in files.digests(tmp_path)["model.pth"]


def test_a_run_goes_on_and_is_attacked_only_with_what_it_wrote(settings, capsys):
    run_recbole_rawp(config_dict=settings("NeuMF", defense="none", rawp_output_dir="run", **QUICK))
    file, before = Path("run/model.pth"), Path("run/model.pth").read_bytes()
    assert list(json.loads(Path("run/digests.json").read_text())) == ["resume.pt", "model.pth"]
    content = checkpoint.read(file)
    assert continue_run("run", argv=[])["best_valid_score"] == content["best_valid_score"]
    zeroed = {name: 0 * weight for name, weight in content["state_dict"].items()}
    torch.save(content | {"state_dict": zeroed}, "zeroed.pth")
    cut, flipped = before[:-1000], bytearray(before)
    flipped[len(before) // 2] ^= 4
    for damaged in (Path("zeroed.pth").read_bytes(), cut, bytes(flipped)):
        file.write_bytes(damaged)
        for words in (["train", "--resume=run"], ["attack", str(file)]):
            assert main(words) == 2
            assert "'run/model.pth' is not what its run wrote (see digests.json beside it)" in capsys.readouterr().err
    shutil.copy("zeroed.pth", "elsewhere.pth")
    assert checkpoint.read("elsewhere.pth")["epoch"] == content["epoch"]
    file.unlink()
    assert main(["train", "--resume=run"]) == 2
    assert "there is no file 'run/model.pth'" in capsys.readouterr().err
    spoilt(file, content)
    Path("run/digests.json").unlink()
    Path("run/model-stage1.pth").write_bytes(before)
    assert main(["train", "--resume=run"]) == 2
    assert "posix.system" in capsys.readouterr().err and not Path("owned").exists()


def test_it_takes_the_place_of_the_module():
    torch.save({"a": torch.ones(2)}, "x.pth")
    assert torch.equal(torch.load("x.pth", weights_only=False, pickle_module=PICKLE)["a"], torch.ones(2))

"""Is a disk that is full or read-only one line, with no half of a file left and what was there kept?"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from recbole_rawp import files
from recbole_rawp.cli.main import main
from recbole_rawp.errors import InputError
from recbole_rawp.host.config import RAWPConfig
from tests.training import made

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:642] . unexpected pos 59712 vs 59600"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
]


@pytest.mark.parametrize("error", FULL, ids=["text", "pos", "writer"])
def test_a_full_disk_keeps_what_was_there(error):
    def save(partial):
        partial.write_text("ha")
        raise error

    Path("f.txt").write_text("whole")
    with pytest.raises(InputError, match="cannot write 'f.txt': .*What was there is kept. Make room"):
        files.whole(Path("f.txt"), save)
    assert [path.name for path in Path().iterdir()] == ["f.txt"] and Path("f.txt").read_text() == "whole"


def test_another_error_is_none_of_the_disks():
    def save(partial):
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        files.whole(Path("f.txt"), save)


def test_a_checkpoint_is_kept_on_a_full_disk_and_a_folder_that_is_gone_is_told(settings, monkeypatch):
    trainer, _ = made(RAWPConfig(config_dict=settings("NeuMF", defense="none")))
    Path("out").mkdir()
    trainer.write_into(Path("out"), fingerprint="x")
    trainer._save_checkpoint(1, verbose=False)
    before = {path: path.read_bytes() for path in Path("out").iterdir()}

    def full(state, file, **options):
        Path(file).write_text("ha")
        raise FULL[1]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(InputError, match="cannot write 'out/model.pth': the disk may be full"):
            trainer._save_checkpoint(2, verbose=False)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    Path("out").rename("gone")
    with pytest.raises(InputError, match="cannot write 'out/model.pth'"):
        trainer._save_checkpoint(2, verbose=False)


def test_names_that_no_file_can_have_are_one_line(capsys):
    long = "x" * 300
    for words in (
        ["train", "-m", "NeuMF", "-d", long],
        ["train", "-m", "NeuMF", "-d", "ml-100k", f"--rawp_output_dir={long}"],
        ["attack", long],
        ["report", long],
        ["train", f"--resume={long}"],
        ["compare", f"--resume={long}"],
    ):
        assert main(words) == 2, words
        error = capsys.readouterr().err
        assert error.startswith("recbole-rawp: ") and error.count("\n") == 1, error

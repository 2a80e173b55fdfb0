"""Is what was typed passed down, and never put where others read it?"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import recbole_rawp
from recbole_rawp.cli.main import main
from recbole_rawp.host import environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.jobs import attack, train
from recbole_rawp.jobs.comparison import compare as comparisons

HOME = Path(recbole_rawp.__file__).parent
MODEL = {"model": "NeuMF", "dataset": "ml-100k"}
NOTEBOOK = ["/lib/ipykernel_launcher.py", "-f", "/run/kernel.json", "--HistoryManager.enabled=False", "--epochs=7"]


def test_words_that_are_passed_take_the_place_of_the_process_words(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "--epochs=7"])
    assert RAWPConfig(config_dict=MODEL)["epochs"] == 7
    assert RAWPConfig(config_dict=MODEL, argv=["--epochs", "8"])["epochs"] == 8
    config = RAWPConfig(config_dict=MODEL, argv=[])
    assert config["epochs"] == 300 and config.argv == []


def test_a_notebooks_words_are_not_the_users(monkeypatch):
    monkeypatch.setattr(sys, "argv", NOTEBOOK)
    config = RAWPConfig(config_dict=MODEL)
    assert config["epochs"] == 300 and "HistoryManager.enabled" not in config
    seen = []
    monkeypatch.setattr(comparisons.grid, "read", lambda *asked: seen.append(asked) or pytest.skip("read"))
    with pytest.raises(pytest.skip.Exception):
        comparisons.compare("NeuMF", "ml-100k", "none", 1, config_dict={"epochs": 2})
    assert seen[0][-1] == {"epochs": 2}


def test_nothing_of_ours_writes_the_words_and_two_places_read_them():
    using = {}
    for path in HOME.rglob("*.py"):
        if found := re.findall(r"sys\.argv.*", path.read_text(encoding="utf-8")):
            using[path.relative_to(HOME).parts] = found
    assert {parts for parts in using if parts[0] != "cli"} == {("config", "command_line.py")}
    assert not [line for lines in using.values() for line in lines if re.match(r"sys\.argv(\[.*\])? *=[^=]", line)]


def test_the_command_line_hands_its_words_to_the_job_and_leaves_the_process_alone(monkeypatch):
    before, seen = sys.argv[:], []
    monkeypatch.setattr(train, "run_recbole_rawp", lambda **asked: seen.append(asked) or sys.exit(0))
    monkeypatch.setattr(attack, "attack_checkpoint", lambda file, **asked: seen.append(asked) or sys.exit(0))
    words = [["train", "-m", "NeuMF", "-d", "ml-100k"], ["attack", "x.pth", "--epochs=2"]]
    for typed in words:
        with pytest.raises(SystemExit):
            main(typed)
    assert [asked["argv"] for asked in seen] == words and sys.argv == before


def test_the_environment_tells_what_was_typed(monkeypatch):
    config = RAWPConfig(config_dict=MODEL, argv=["train", "--note=a b"])
    described = environment.describe(config["device"], config.argv)
    assert described.splitlines()[0] == "command: test train '--note=a b'"

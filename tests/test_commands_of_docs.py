"""Is every command that README and the documentation show one that can be typed?"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import recbole
import yaml
from recbole.utils.argument_list import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from recbole_rawp.cli import main
from recbole_rawp.config.checks import check_values
from recbole_rawp.config.command_line import COMMAND_LINE_ONLY
from recbole_rawp.config.properties import defaults
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.suites import read

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"(?:recbole-rawp|python run_recbole_rawp\.py) +(.+)")
RECBOLES = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page):
    """Return what follows the program's name: in blocks of bash, continued lines joined, and between backticks."""
    text = page.read_text(encoding="utf-8")
    shown = [
        line for kind, block in BLOCK.findall(text) if kind == "bash" for line in block.replace("\\\n", "").split("\n")
    ]
    shown += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return [shlex.split(found[1], comments=True) for line in shown if (found := OURS.match(line))]


SHOWN = {f"{page.stem}: {' '.join(words)}"[:90]: words for page in PAGES for words in commands(page)}


def known_keys():
    """Return every option of ours and of RecBole's, of its models, too."""
    models = (Path(recbole.__file__).parent / "properties" / "model").glob("*.yaml")
    own = (yaml.load(file.read_text(encoding="utf-8"), yaml.FullLoader) or {} for file in models)
    return {
        *OPTIONS,
        *COMMAND_LINE_ONLY,
        *RECBOLES,
        "config_files",
        "model",
        "dataset",
        *(key for each in own for key in each),
    }


@pytest.mark.parametrize("words", SHOWN.values(), ids=SHOWN)
def test_a_command_that_is_shown_can_be_typed(words, capsys, monkeypatch):
    typed = []

    def run(options, *rest, argv):
        typed.append(options)
        return 0

    for name, command in main.COMMANDS.items():
        monkeypatch.setitem(main.COMMANDS, name, command if name == "list" else replace(command, run=run))
    assert main.main(words) == 0, capsys.readouterr().err
    for options in typed:
        assert options.keys() <= known_keys()
        check_values({key: value for key, value in options.items() if key in OPTIONS})
        for suite in (options[key] for key in ("attack", "criticality_threats") if key in options):
            assert read(suite)
        for defense in [options[key] for key in ("defense",) if key in options] + str(
            options.get("defenses", "none")
        ).split(","):
            assert defaults(defense) is not None
        for file in (name.rpartition(":")[2] for name in options.get("config_files", "").split()):
            assert "/" not in file or (ROOT / file).is_file(), file


def test_there_are_such_commands():
    assert len(SHOWN) > 30 and {words[0] for words in SHOWN.values()} >= {*main.COMMANDS}

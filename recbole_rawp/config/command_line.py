"""Reads what was typed: words become options and values, and nothing is ever evaluated."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from recbole_rawp.errors import InputError

ALIASES = {"defence": "defense"}
GRID = ("models", "datasets", "defenses", "seeds")  # of `recbole-rawp compare`
COMMAND_LINE_ONLY = {"baseline", "resume", *GRID}
NAMES = {"model", "dataset", "models", "datasets", "defenses", "config_files", "resume"}  # never numbers
NOTEBOOK = "ipykernel_launcher"  # the program of a notebook, whose words are not the user's


def words(argv: Sequence[str] | None = None) -> list[str]:
    """Return what was typed: `argv`, or behind the name of this process's program; nothing in a notebook."""
    if argv is not None:
        return list(argv)
    return [] if NOTEBOOK in sys.argv[0] else sys.argv[1:]


def command(argv: Sequence[str] | None = None) -> list[str]:
    """Return the program's name and what was typed behind it, as `words`."""
    return [sys.argv[0], *words(argv)]


def read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read `--key=value`, `--key value`, `-m MODEL`, `-d DATASET`, `--baseline`; return the options and what is left.

    Left are words that belong to no option, and options without a value.

    Raises:
        InputError: if a key is given twice with different values.
    """
    short = {"-m": "model", "-d": "dataset"}
    options: dict[str, Any] = {}
    rest = []
    pending = list(arguments)
    while pending:
        word = pending.pop(0)
        if word not in short and not (word.startswith("--") and len(word) > 2):
            rest.append(word)
            continue
        key, equals, text = short.get(word, word[2:]).partition("=")
        key = ALIASES.get(key, key)
        if not equals and key == "baseline":
            text = "True"
        elif not equals:
            if not pending or pending[0].startswith("--") or pending[0] in short:
                rest.append(word)
                continue
            text = pending.pop(0)
        value = text if key in NAMES else literal(text)
        if options.setdefault(key, value) != value:
            raise InputError(f"--{key}: given twice, as {options[key]!r} and {value!r}. Keep one.")
    return options, rest


def literal(text: Any) -> Any:
    """Return the Python or YAML value that a string spells, else the string; nothing is ever evaluated."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text in ("null", "~"):
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if text[:1] in ("[", "{"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            pass
    return text

"""Reads what was typed: words become options and values, and nothing is ever evaluated."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from recbole_rawp.errors import InputError, naming

ALIASES = {"defence": "defense"}
GRID = ("models", "datasets", "defenses", "seeds")  # of `recbole-rawp compare`
FLAGS = ("baseline", "trust_checkpoint", "accept_terms")  # need no value
COMMAND_LINE_ONLY = {*FLAGS, "resume", "workers", *GRID}
NAMES = {"model", "dataset", "models", "datasets", "defenses", "config_files", "resume", "data_path"}  # never numbers
NOTEBOOK = "ipykernel_launcher"  # the program of a notebook, whose words are not the user's
WRITTEN = "Write it as \"{key: value, other: [1, 2], third: '[3,inf)'}\", in quotes."
# What a typed mapping is made of: quoted words, intervals such as [3,inf), brackets, and what parts keys and values.
PIECES = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"|\([^][(){},]*,[^][(){},]*[])]|\[[^][(){},]*,[^][(){},]*\)|[][{}:,]"""
)
ENDS = ("[)", "(]", "()")  # of an interval


class Typed(yaml.SafeLoader):
    """Reads YAML as RecBole reads its files: 1e-3, which lacks a dot, is a number."""


Typed.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), [*"-+0123456789"])


def words(argv: Sequence[str] | None = None) -> list[str]:
    """Return what was typed: `argv`, or behind the name of this process's program; nothing in a notebook."""
    if argv is not None:
        return list(argv)
    return [] if NOTEBOOK in sys.argv[0] else sys.argv[1:]


def command(argv: Sequence[str] | None = None) -> list[str]:
    """Return the program's name and what was typed behind it, as `words`."""
    return [sys.argv[0], *words(argv)]


def read(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Read `--key=value`, `--key value`, `-m MODEL`, `-d DATASET` and flags; return the options and what is left.

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
        if not equals and key in FLAGS:
            text = "True"
        elif not equals:
            if not pending or pending[0].startswith("--") or pending[0] in short:
                rest.append(word)
                continue
            text = pending.pop(0)
        with naming(f"--{key}"):
            value = text if key in NAMES else literal(text)
        if options.setdefault(key, value) != value:
            apart = f" Or quote it, --{key}='{{...}}': a shell takes mappings apart." * (":" in str(value))
            raise InputError(f"--{key}: given twice, as {options[key]!r} and {value!r}. Keep one.{apart}")
    return options, rest


def literals(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that strings spell; InputError as `literal`, with the option's name."""
    found = {}
    for key, text in texts.items():
        with naming(key):
            found[key] = literal(text)
    return found


def literal(text: Any) -> Any:
    """Return the Python or YAML value that a string spells, else the string; nothing is ever evaluated.

    Raises:
        InputError: if it begins as a mapping, and is none.
    """
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
            return yaml.load(spaced(text), Typed)
        except yaml.YAMLError as error:
            if text[:1] == "{":
                reason = getattr(error, "problem", None) or "not YAML"
                raise InputError(f"{text!r} is no mapping ({reason}). {WRITTEN}") from error
    return text


def spaced(text: str) -> str:
    """Return a typed list or mapping as YAML wants it: a blank after the colon of each key, intervals in quotes.

    Raises:
        InputError: for an entry of a mapping without a colon.
    """
    written, opened, entry, end = "", "", "", 0  # opened: brackets; entry: its key, until the colon comes
    awaited = False  # a colon
    for found in PIECES.finditer(text):
        piece, gap, end = found.group(), text[end : found.start()], found.end()
        entry += gap
        if awaited and piece in ",}" and entry.strip():
            raise InputError(f"{text!r}: {entry.strip()!r} has no value. {WRITTEN}")
        written += gap + (": " if awaited and piece == ":" else repr(piece) if piece[0] + piece[-1] in ENDS else piece)
        opened = opened + piece if piece in "[{" else opened[:-1] if piece in "]}" else opened
        if piece in "[{]}:,":
            awaited, entry = piece in "{," and opened.endswith("{"), ""
        else:
            entry += piece
    return written + text[end:]

"""Says what can be typed: `--help` of the whole and of each command, and what a shell may complete.

Words are read by `config.command_line`, for any option of RecBole's may be among them; argparse lays the help out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import recbole_rawp
from recbole_rawp.cli.command import Command
from recbole_rawp.config import shipped
from recbole_rawp.config.reference import literal
from recbole_rawp.config.schema import OPTIONS, SECTIONS

TEXT = """\
recbole-rawp trains a RecBole model whose ranking survives small changes of its weights, and measures it.

  recbole-rawp train --model=NeuMF --dataset=ml-100k --baseline
  recbole-rawp attack saved/NeuMF.pth
  recbole-rawp harden saved/NeuMF.pth"""
END = """\
`recbole-rawp COMMAND --help` says what a command takes, `recbole-rawp list options` every option of ours. They are
flat keys like RecBole's own, whose options are taken, too: --epochs=50, or in a YAML file, --config_files=my.yaml.
Where no command is named, it is train. `python run_recbole_rawp.py` takes the same words.

A .pth file is a pickle, which can run code when loaded: one that holds more than RecBole's need is refused."""
GENERAL = {  # of several commands: option -> what stands for its value, and its meaning
    "model": (
        "NAME",
        "a RecBole model trained by gradient descent (recbole-rawp list models), or package.module:Class",
    ),
    "dataset": ("NAME", "a RecBole data set: ml-100k ships with RecBole, others belong into --data_path (dataset/)"),
    "config_files": ("FILES", "YAML files, separated by spaces; later ones win"),
}
SHORT = {"model": "-m", "dataset": "-d"}


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return what lays out the help, and knows what can be completed."""
    top = Parser("recbole-rawp", usage="recbole-rawp COMMAND ...", description=TEXT, epilog=END)
    top.add_argument("-V", "--version", action="version", version=f"recbole-rawp {recbole_rawp.__version__}")
    below = top.add_subparsers(title="commands", metavar="", parser_class=Parser)
    for name, command in commands.items():
        usage = " ".join(filter(None, ("recbole-rawp", name, command.metavar, "[--OPTION=VALUE ...]")))
        one = below.add_parser(
            name, usage=usage, help=command.help, description=described(command), epilog=command.more
        )
        if command.metavar:
            one.add_argument("words", metavar=command.metavar, help=command.takes, choices=command.choices or None)
        for option in (*command.general, *command.own):
            add_option(one, option, *(command.own.get(option) or GENERAL[option]))
        for section in (section for section in SECTIONS if section.name in command.sections):
            group = one.add_argument_group(section.title)
            for ours in section.options:
                text = f"{ours.meaning} ({ours.expected}; {literal(ours.default)})"
                group.add_argument(f"--{ours.name}", metavar="VALUE", help=text.replace("%", "%%"))
    return top


class Parser(argparse.ArgumentParser):
    """Keeps the lines of a description as they are, and takes no beginning of an option for it."""

    def __init__(self, name: str = "recbole-rawp", **options: Any) -> None:
        options |= {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(**({"prog": name} | options))


def add_option(one: argparse.ArgumentParser, option: str, value: str, meaning: str) -> None:
    """Add an option that is no option of a run; one without a value is a flag."""
    names = [SHORT[option]] if option in SHORT else []
    if value:
        one.add_argument(*names, f"--{option}", metavar=value, help=meaning)
    else:
        one.add_argument(*names, f"--{option}", action="store_true", help=meaning)


def described(command: Command) -> str:
    """Return what a command does, and how it is typed."""
    lines = [f"  recbole-rawp {example}" for example in command.examples]
    return "\n".join([command.help[0].upper() + command.help[1:] + ".", "", *lines])


def parsers_of(commands: Mapping[str, Command], top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    (below,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return {name: below.choices[name] for name in commands}


def help_of(commands: Mapping[str, Command], name: str | None) -> str:
    """Return the help of a command; without one, that of the whole."""
    top = parser(commands)
    return (parsers_of(commands, top)[name] if name else top).format_help()


def complete(commands: Mapping[str, Command]) -> None:
    """Answer a shell that asks what a word may become, and end; nothing where argcomplete is not installed."""
    try:
        import argcomplete
    except ImportError:
        return
    top = parser(commands)
    for action in (action for one in parsers_of(commands, top).values() for action in one._actions):
        if words := values_of(action.dest):
            action.completer = argcomplete.ChoicesCompleter(dict.fromkeys(words, ""))  # type: ignore[attr-defined]
    argcomplete.autocomplete(top)


def values_of(option: str) -> list[str]:
    """Return the words that an option may have; none where there are more than words."""
    if option in ("defense", "attack"):  # whose folders have their names
        return shipped.names(option)
    return OPTIONS[option].expected.split(" | ") if option in OPTIONS and " | " in OPTIONS[option].expected else []

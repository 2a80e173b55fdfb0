"""Runs the command line: finds the command among the words, checks which options go with it, and runs it."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import recbole_rawp
from recbole_rawp.cli.command import Command
from recbole_rawp.cli.commands import attack, compare, convert, fetch, harden, listing, rank, report, train
from recbole_rawp.cli.usage import complete, help_of
from recbole_rawp.errors import InputError, Interrupted, suggestion

COMMANDS: dict[str, Command] = {
    "train": train.COMMAND,  # which is also the command where none is named
    "rank": rank.COMMAND,
    "harden": harden.COMMAND,
    "attack": attack.COMMAND,
    "report": report.COMMAND,
    "compare": compare.COMMAND,
    "convert": convert.COMMAND,
    "fetch": fetch.COMMAND,
    "list": listing.COMMAND,
}

# What a file system answers that is full, read-only, or asked for a name that it cannot have.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENAMETOOLONG)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, or 2 with one line on stderr for input that cannot work.

    1: some runs of a comparison failed. 130: Ctrl-C, with one line on what goes on.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # One thread on CPUs, so that a run repeats and threads do not wait for each other; read where torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")  # nothing a user can mend
    try:
        if "_ARGCOMPLETE" in os.environ:  # a shell asks
            complete(COMMANDS)
        if not arguments or {"--help", "-h"} & set(arguments):
            print(help_of(COMMANDS, arguments[0] if arguments[:1] and arguments[0] in COMMANDS else None), flush=True)
            return 0
        if {"--version", "-V"} & set(arguments):
            print(f"recbole-rawp {recbole_rawp.__version__}")
            return 0
        return run(arguments)
    except BrokenPipeError:  # who reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        again = f"Go on with: {stop}" if isinstance(stop, Interrupted) else "Give the same command again."
        print(f"\nrecbole-rawp: interrupted. {again}", file=sys.stderr)
        return 130
    except InputError as error:
        if preparation := sys.modules.get("recbole_rawp.host.preparation"):
            preparation.withdraw_log()
        print(f"recbole-rawp: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        print(
            f"recbole-rawp: {error.strerror}: '{str(error.filename)[:80]}'. Make room, or name another.",
            file=sys.stderr,
        )
        return 2
    except ModuleNotFoundError as error:  # some of RecBole's models import what they need only while training
        print(f"recbole-rawp: the package '{error.name}' is needed and not installed. Install it.", file=sys.stderr)
        return 2


def run(arguments: list[str]) -> int:
    """Find the command among the words, and run it."""
    from recbole_rawp.config import command_line
    from recbole_rawp.config.checks import check_one_process, check_values

    check_one_process()
    options, rest = command_line.read(arguments)
    name = rest.pop(0) if rest and rest[0] in COMMANDS else "train"
    check_words(name, COMMANDS[name], rest, options)
    check_options(name, options)
    check_values({key: options[key] for key in ("rawp_output_dir",) if key in options})  # report reads no settings
    return COMMANDS[name].run(options, *rest, argv=arguments)


def check_words(name: str, command: Command, rest: list[str], options: dict[str, Any]) -> None:
    """Raise InputError if the words beside the options are not those that the command takes."""
    wanted = len(rest) if command.words is None else command.words
    for word in rest[wanted:] + [word for word in rest[:wanted] if word.startswith("-")]:
        if word.startswith("-"):
            raise InputError(f"{word}: no value given. Write {word}=VALUE.")
        hint = " Quote several config files: --config_files='a.yaml b.yaml'." * ("config_files" in options)
        raise InputError(f"'{word}': not a command or option.{suggestion(word, COMMANDS)}{hint} Try --help.")
    if len(rest) < wanted or (command.words is None and not rest):
        raise InputError(f"{name}: name {command.takes}, as in `recbole-rawp {name} {command.word}`.")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise InputError for an option of another command, and for what no command can do."""
    from recbole_rawp.config.command_line import FLAGS

    owners: dict[str, list[str]] = {}
    for command, found in COMMANDS.items():
        for key in found.own:
            owners.setdefault(key, []).append(command)
    for key, commands in owners.items():
        if key in options and name not in commands:
            raise InputError(f"--{key}: goes with {' and '.join(commands)}, not with {name}. Leave it out.")
    for key in FLAGS:
        if not isinstance(options.get(key, True), bool):
            raise InputError(f"--{key}: {options[key]!r} is neither true nor false. Leave the value out.")
    if "baseline" in options and "resume" in options:
        raise InputError("--baseline: a run that goes on knows whether it has one. Leave it out.")
    if any(options.get(key, 1) not in (1, -1) for key in ("nproc", "world_size")):
        raise InputError("nproc: robustness is measured in one process. Leave nproc and world_size out.")

"""Says what the command line must know of a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.config.schema import SECTIONS
from recbole_rawp.errors import InputError

EVERY = tuple(section.name for section in SECTIONS)
TRUST = {"trust_checkpoint": ("", "load a checkpoint that holds what RecBole's do not need, and let its code run")}
ON_A_CHECKPOINT: dict[str, Any] = {  # what the commands on one have in common
    "words": 1,
    "metavar": "CHECKPOINT",
    "takes": "a .pth file that RecBole saved, hardened or not",
    "word": "saved/NeuMF.pth",
    "own": TRUST,
}


@dataclass(frozen=True)
class Command:
    """A command: what it does, how many words it takes, and which options are its own.

    Attributes:
        run: takes the options and the words; prints, and returns the exit status.
        help: what it does, in a line.
        examples: what may be typed behind the program's name.
        more: what else its help says, in the end.
        words: how many words follow the command; None stands for one or more.
        metavar, takes, word: what stands for them in its help, what they are, and an example.
        choices: the words that there are; empty where they are the user's.
        general: options of several commands that it takes, see `usage.GENERAL`.
        own: options that other commands do not have, unless they name them too -> what stands for the value (empty
            where there need be none), and the meaning.
        sections: names of those of our options that it looks at.
    """

    run: Callable[..., int]
    help: str
    examples: tuple[str, ...]
    more: str = ""
    words: int | None = 0
    metavar: str = ""
    takes: str = ""
    word: str = ""
    choices: tuple[str, ...] = ()
    general: tuple[str, ...] = ("config_files",)
    own: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    sections: tuple[str, ...] = ("Output",)


def check_alone(options: Mapping[str, Any], known: set[str], takes: str) -> None:
    """Raise InputError for an option of a command that reads no settings, if it is none of the known ones."""
    for key in options.keys() - known:
        raise InputError(f"--{key}: {takes} alone. Leave it out.")


def config_files(options: dict[str, Any]) -> list[str] | None:
    """Return the config files that were named."""
    return options["config_files"].split() if options.get("config_files") else None


def of_checkpoint(options: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """Return what a job on a checkpoint is asked for beside the file."""
    return {"config_file_list": config_files(options), "argv": argv, "trust_checkpoint": trusts(options)}


def trusts(options: dict[str, Any]) -> bool:
    """Tell whether the checkpoint's code may run."""
    return bool(options.get("trust_checkpoint", False))

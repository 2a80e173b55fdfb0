"""Says what the command line must know of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """A command: what it does, how many words it takes, and which options are its own.

    Attributes:
        run: takes the options and the words; prints, and returns the exit status.
        words: how many follow the command; None stands for one or more.
        takes, example: what the words are, for one who left them out.
        own: options that other commands do not have, unless they name them too.
    """

    run: Callable[..., int]
    words: int | None = 0
    takes: str = "the checkpoint"
    example: str = "saved/NeuMF.pth"
    own: tuple[str, ...] = ()


def config_files(options: dict[str, Any]) -> list[str] | None:
    """Return the config files that were named."""
    return options["config_files"].split() if options.get("config_files") else None


def trusts(options: dict[str, Any]) -> bool:
    """Tell whether the checkpoint's code may run."""
    return bool(options.get("trust_checkpoint", False))

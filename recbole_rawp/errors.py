"""Says what the user got wrong, in one line: the value, the reason and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A setting, file or model that cannot be used as asked; the message is one line for the user.

    The command line prints it without a traceback and exits with status 2.
    """


class Busy(InputError):
    """A folder of output in which another process is at work."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a job that can go on; the message is the command for that."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the known name closest to `word`, or an empty string."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean '{by_lower[close[0]]}'?" if close else ""


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the option's name before an InputError of the code inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}") from error

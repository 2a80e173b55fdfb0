"""Reads what entries of a suite have in common, whatever the kind of threat: levels, and losses that are climbed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from recbole_rawp.threats.setting import CLEAN, LOSSES, WORST


def losses_named(word: str) -> tuple[str, ...]:
    """Return the losses that an option names, each climbed by itself; the reverse of `loss_word`."""
    return LOSSES if word == WORST else (word,)


def loss_word(losses: Sequence[str]) -> str:
    """Return what an option calls these losses."""
    return WORST if len(losses) > 1 else losses[0]


def graded(values: Iterable[float]) -> tuple[float, ...]:
    """Return levels as a threat has them: ascending, each once, the clean model first."""
    return tuple(sorted({CLEAN, *map(float, values)}))


def wrong_levels(key: str, values: Any, accepts: Callable[[Any], bool], expected: str) -> str:
    """Return what is wrong with the levels that an entry of a suite lists under a key; empty if nothing."""
    if isinstance(values, (list, tuple)) and values and all(map(accepts, values)):
        return ""
    return f"attack: {key}: {values!r} is not valid; expected a list of {expected}."


def within(most: float) -> tuple[Callable[[Any], bool], str]:
    """Return whether a level is a number above 0 and up to `most`, and that in words, for `wrong_levels`."""
    return lambda value: isinstance(value, (int, float)) and 0 < value <= most, f"numbers in (0, {most:g}]"

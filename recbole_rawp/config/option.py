"""Describes an option: its default, its meaning, and the values that it accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Domain:
    """The values that an option accepts: in words, and as a test."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Option:
    """One option of ours, a flat key beside RecBole's own.

    Attributes:
        name: the key, as it is written in YAML, in `config_dict` and after `--`.
        domain: what it accepts.
        default: where neither model, defense nor user says otherwise.
        meaning: a sentence for the user.
        unit: of a number; empty for what has none. May be another option, which names the unit.
    """

    name: str
    domain: Domain
    default: Any
    meaning: str
    unit: str = ""

    @property
    def expected(self) -> str:
        """The type and range in words."""
        return self.domain.words

    def accepts(self, value: Any) -> bool:
        """Tell whether the option can have this value."""
        return self.domain.holds(value)


@dataclass(frozen=True)
class Section:
    """Options that belong together, under a title."""

    title: str
    options: tuple[Option, ...]

    @property
    def name(self) -> str:
        """The title without what explains it."""
        return self.title.partition(":")[0]


def number(kind: type, words: str, accepts: Callable[[float], bool]) -> Domain:
    """Return the finite numbers of `kind` that pass (an int passes for a float, a bool for neither)."""
    kinds = (int, float) if kind is float else (int,)
    return Domain(
        words, lambda v: isinstance(v, kinds) and not isinstance(v, bool) and math.isfinite(v) and accepts(float(v))
    )


def one_of(words: Iterable[str]) -> Domain:
    """Return the domain of some words; `null` among them stands for None."""
    options = tuple(words)
    return Domain(" | ".join(options), lambda v: (v if v is not None else "null") in options and v != "null")


def or_null(domain: Domain, words: str = "") -> Domain:
    """Return the domain with None added; `words` say so where "... or null" does not."""
    return Domain(words or f"{domain.words} or null", lambda v: v is None or domain.holds(v))


def or_word(word: str, domain: Domain) -> Domain:
    """Return the domain with a word added."""
    return Domain(f"{domain.words} or {word}", lambda v: v == word or domain.holds(v))


def list_of(domain: Domain, words: str) -> Domain:
    """Return the lists, not empty, of what is in the domain."""
    return Domain(words, lambda v: isinstance(v, (list, tuple)) and bool(v) and all(map(domain.holds, v)))


def is_word(value: Any) -> bool:
    """Tell whether `value` is a string with something in it."""
    return isinstance(value, str) and bool(value.strip())


BOOL = Domain("bool", lambda v: isinstance(v, bool))
NOT_NEGATIVE = number(float, "float >= 0", lambda v: v >= 0)
POSITIVE = number(float, "float > 0", lambda v: v > 0)
LARGEST = 1e6  # radius: what is left of a weight then is noise, and not far beyond no number can hold it
RADIUS = number(float, "float in (0, 1e6]", lambda v: 0 < v <= LARGEST)
RADIUS_OR_0 = number(float, "float in [0, 1e6]", lambda v: 0 <= v <= LARGEST)
SHARE = number(float, "float in (0, 1]", lambda v: 0 < v <= 1)
INNER_SHARE = number(float, "float in (0, 1)", lambda v: 0 < v < 1)
BELOW_ONE = number(float, "float in [0, 1)", lambda v: 0 <= v < 1)
COUNT = number(int, "int >= 1", lambda v: v >= 1)
TIMES = number(int, "int >= 0", lambda v: v >= 0)
NAME_OR_FILE = Domain("name or YAML file", is_word)
PATH = Domain("path", is_word)
WORD = Domain("word", is_word)


def targets(words: str) -> Domain:
    """Return the domain of a target: a word or pattern, or a list of them."""
    several = list_of(WORD, "")
    return Domain(words, lambda v: is_word(v) or several.holds(v))


def weights_by_pattern(words: Iterable[str]) -> Domain:
    """Return the domain of some words, or a mapping of patterns to weights that are not all 0."""
    named = one_of(words)

    def holds(value: Any) -> bool:
        """Tell whether `value` is one of the words, or such a mapping."""
        if not isinstance(value, Mapping):
            return isinstance(value, str) and named.holds(value)
        weighed = any(value.values())
        return weighed and all(is_word(key) and NOT_NEGATIVE.holds(weight) for key, weight in value.items())

    return Domain(f"{named.words} | mapping", holds)


SUITE = Domain(  # whether there is such a suite or method is for `suites` to say, which knows every kind of threat
    "suite, YAML file, or list of methods",
    lambda v: is_word(v) or (list_of(Domain("", is_word), "").holds(v) and len(set(v)) == len(v)),
)

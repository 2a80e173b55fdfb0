"""What the values of one curve share, and how reports speak of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

CLEAN = 0.0  # the level of the model as it is
UNIVERSAL, PER_USER = "universal", "per_user"
TRAINING, RANKING = "training", "ranking"  # the losses that an attack can climb
LOSSES, WORST = (TRAINING, RANKING), "worst"  # each of them by itself, and what an option calls that
TARGETS = {
    "": "hidden weights",
    "hidden": "hidden weights",
    "all": "all weights",
    "activations": "outputs of hidden layers",
}


@dataclass(frozen=True)
class Setting:
    """What the values of one curve share; within a setting they compare over levels.

    Attributes:
        target: what differs: `hidden`, `embeddings`, `all`, `activations`, or patterns over parameter names.
        granularity: what one norm spans, of perturbations.
        unit: of the level; it tells which `Words` speak of it.
        scope: `universal`, one change for all users, or `per_user`.
        labels: of attacks per user.
    """

    target: str = ""
    granularity: str = ""
    unit: str = "relative radius"
    scope: str = ""
    labels: str = ""

    @property
    def words(self) -> Words:
        """Return how this setting is spoken of."""
        return WORDS.get(self.unit, Words())

    @property
    def name(self) -> str:
        """Return the setting's part of file names and TensorBoard tags: `hidden-row-absolute-per_user-truth`."""
        return self.words.name(self)

    @property
    def title(self) -> str:
        """Return the setting in words."""
        return self.words.title(self)

    @property
    def what(self) -> str:
        """Return what differs, in words."""
        return TARGETS.get(self.target, self.target)

    @property
    def axis(self) -> str:
        """Return what the level is, with its unit."""
        return self.words.axis(self)

    def at(self, level: float) -> str:
        """Return one level in words: `radius 0.1`."""
        return self.words.at(level)


SETTING = tuple(field.name for field in fields(Setting))


class Words:
    """What reports call a threat's settings and levels; subclasses say where they differ.

    Attributes:
        noun, nouns: what a level is called before its number, and several of them.
        control: what an innocent change of the same size is.
        adversary: whether somebody looks for the worst change, so that the worst of the variants counts; else each
            variant is a question of its own.
        logarithmic: whether levels span orders of magnitude.
        step: the unit in which TensorBoard counts levels, in whole numbers.
    """

    noun: ClassVar[str] = "level"
    nouns: ClassVar[str] = "levels"
    control: ClassVar[str] = "noise of the same norm"
    adversary: ClassVar[bool] = True
    logarithmic: ClassVar[bool] = False
    step: ClassVar[float] = 1e-4

    def name(self, setting: Setting) -> str:
        """Return a part of file names."""
        return for_files(setting.target, setting.granularity, setting.unit, setting.scope)

    def short(self, setting: Setting) -> str:
        """Return the setting for messages: `hidden/format`."""
        return "/".join(filter(None, (setting.target, setting.granularity, setting.unit)))

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what}, {setting.unit}"

    def axis(self, setting: Setting) -> str:
        """Return what the level is, for axes and below tables."""
        return setting.unit

    def at(self, level: float) -> str:
        """Return a level in words."""
        return f"{self.noun} {level:g}"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model at a level, as a clause after 'When'; `variants` do it."""
        return f"{variants} changes {setting.what} at {setting.at(level)}"

    def variant(self, setting: Setting, title: str) -> str:
        """Return what a variant is called where its setting is not told."""
        return title

    def amount(self, level: float) -> str:
        """Return a level as it stands after a variant; empty where there is one alone."""
        return f"{level:g}"


WORDS: dict[str, Words] = {}  # unit -> how settings in it are spoken of


def for_files(*parts: str) -> str:
    """Return the parts that say something, joined as names of files and TensorBoard tags can be."""
    return "-".join(filter(None, (re.sub(r"[^\w.]+", "_", part).strip("_") for part in parts)))


def target_name(target: str | Sequence[str]) -> str:
    """Return a target as records carry it."""
    return target if isinstance(target, str) else ",".join(target)

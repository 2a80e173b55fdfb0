"""Keeps what single models of RecBole need that others do not: one class per quirk, registered beside its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

Loss = Callable[..., Any]


@dataclass(frozen=True)
class Pretraining:
    """The runs in which a model is trained, one after another, and how it is told which one this is.

    Attributes:
        key: the setting that names the run.
        names: theirs, in order; each but the first goes on from a checkpoint.
        file: the setting that names that checkpoint.
        earlier: the model whose checkpoint it is; empty: the same.
    """

    key: str
    names: tuple[str, ...]
    file: str
    earlier: str = ""

    @property
    def first(self) -> str:
        """What to do before a later run."""
        return f"Train {self.earlier} of the same size" if self.earlier else f"Run {self.key}={self.names[0]}"


class Quirk:
    """What some models need; every method but `fits` does, as it stands here, what all other models need.

    Attributes:
        pretraining: name of a model, as the setting `model` gives it -> the runs that it is trained in.
    """

    pretraining: ClassVar[Mapping[str, Pretraining]] = {}

    def check_settings(self, config: Any) -> None:
        """Raise InputError for settings that its model would take and should not."""

    def fits(self, model: Any) -> bool:
        """Tell whether a model has the quirk: by what it has, for a user's own model may have it too."""
        return False

    def loss(self, model: Any, loss: Loss) -> Loss:
        """Return the loss of the recommendation task; `loss` is `model.calculate_loss`."""
        return loss

    def counted(self, trainer: Any, loss: Loss, epoch: int) -> Loss:
        """Return the loss with 0 for a part that the trainer's loop drops in that epoch."""
        return loss

    def settle(self, model: Any) -> None:
        """Bring up to date what the model holds beside new weights that are there to stay."""

    def after_load(self, model: Any) -> None:
        """Make what RecBole leaves out of its checkpoints, once one is loaded."""

    def check(self, model: Any) -> None:
        """Raise InputError if the model was built with settings with which it cannot train."""

    def pretrains(self, model: Any) -> bool:
        """Tell whether the model is in a run before the one that counts: not scored, not repaired."""
        return False


QUIRKS: list[Quirk] = []
Kind = TypeVar("Kind", bound="type[Quirk]")


def register(quirk: Kind) -> Kind:
    """Let a quirk be asked from now on; a class decorator."""
    QUIRKS.append(quirk())
    return quirk


def quirks_of(model: Any) -> list[Quirk]:
    """Return the quirks that a model has."""
    return [quirk for quirk in QUIRKS if quirk.fits(model)]

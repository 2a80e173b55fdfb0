"""Says where a run of several models is, and how long the rest takes if it takes as long as for the model before."""

from __future__ import annotations

from collections.abc import Sequence

TRAINING, ATTACKS = "training", "attacks"


class TimeLeft:
    """What the parts of a run took so far.

    Args:
        models: how the models are called, in the order in which they are trained and attacked.
        attacked: how often each is attacked: twice where that is done before its repair, too.
    """

    def __init__(self, models: Sequence[str], attacked: Sequence[int]) -> None:
        self.models, self.attacked = models, attacked
        self.seconds: dict[str, float] = {}  # part -> of the last model that did it, attacked once

    def at(self, number: int, part: str) -> str:
        """Return the line for the beginning of a part of a model, which are counted from 1."""
        line = f"Model {number} of {len(self.models)}, {self.models[number - 1]}: {part}."
        rest = self.left(number, part)
        return line if rest is None else f"{line} About {rest / 60:.0f} minutes left, if all takes as long as before."

    def took(self, number: int, part: str, seconds: float) -> None:
        """Remember how long a part took."""
        self.seconds[part] = seconds / (self.attacked[number - 1] if part == ATTACKS else 1)

    def left(self, number: int, part: str) -> float | None:
        """Return the seconds that are left; None before each part was done once, or if less than a minute is left."""
        if len(self.seconds) < 2:
            return None
        training = len(self.models) - number + (part == TRAINING)
        found = training * self.seconds[TRAINING] + sum(self.attacked[number - 1 :]) * self.seconds[ATTACKS]
        return found if found >= 60 else None

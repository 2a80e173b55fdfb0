"""Gives a loop another loss, whichever way it takes it: as `loss_func`, or as the model's own `calculate_loss`.

RecBole's loop takes the first. One that a user wrote may not know that argument, or not use it, and ask the model:
then the model answers with the other loss, for as long as the loop runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from recbole_rawp.core.gradients import Loss, LossFunction

NAME = "calculate_loss"


class LossRoute:
    """The way in which a loop gets its batches' losses, and how often it did.

    Args:
        model: whose `calculate_loss` a loop may ask.
        given: the `loss_func` that the loop was to get; None: the model's.

    Attributes:
        substitute: what stands for the loss of a batch; it may call `plain`, once or more often.
        calls: how many batches took theirs from it.
    """

    def __init__(self, model: Any, given: LossFunction | None) -> None:
        self.model, self.usual = model, getattr(model, NAME, None)
        self.given: Callable[..., Loss] = given or self.usual  # type: ignore[assignment]
        self.substitute: LossFunction = self.plain
        self.base: LossFunction | None = None  # within a call
        self.calls, self.as_argument = 0, False

    def plain(self, batch: Any) -> Loss:
        """Return the loss that the loop would have taken."""
        return (self.base or self.given)(batch)

    def loss_func(self, batch: Any, *rest: Any, **options: Any) -> Loss:
        """Stand for `loss_func`."""
        self.as_argument = True
        return self._of(self.given, batch, rest, options)

    def calculate_loss(self, batch: Any, *rest: Any, **options: Any) -> Loss:
        """Stand for the model's, in loops that do not use `loss_func`; within a loss it is the model's."""
        usual: Any = self.usual
        if self.as_argument:
            return usual(batch, *rest, **options)
        return self._of(usual, batch, rest, options)

    def _of(self, loss: Callable[..., Loss], batch: Any, rest: tuple[Any, ...], options: dict[str, Any]) -> Loss:
        """Return the substitute of a loss of a batch; within one, that loss."""
        if self.base is not None:
            return loss(batch, *rest, **options)
        self.calls += 1
        self.base = partial(_with, loss, rest, options)
        try:
            return self.substitute(batch)
        finally:
            self.base = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Let the model answer for the loss."""
        own = vars(self.model)
        before = own.get(NAME)
        own[NAME] = self.calculate_loss
        try:
            yield
        finally:
            if before is None:
                del own[NAME]
            else:
                own[NAME] = before


def _with(loss: Callable[..., Loss], rest: tuple[Any, ...], options: dict[str, Any], batch: Any) -> Loss:
    """Return the loss of a batch with what else the loop passed."""
    return loss(batch, *rest, **options)

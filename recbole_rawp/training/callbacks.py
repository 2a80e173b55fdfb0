"""The one way into a training: what a callback can hook into, as in skorch.

    on_train_begin
        on_epoch_begin                      before each epoch
            on_loss ... on_pass_end         around each pass over the data: RecVAE and MKR have several in an epoch
        on_validation                       after RecBole's early stopping
    on_train_end                            in reverse order, as the ends of nested blocks

Every hook gets the trainer, whose `arguments` are those of `fit`, and whose `state` it may change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.host.quirks import counted


@dataclass(frozen=True)
class FitArguments:
    """What RecBole's `fit` was called with, but for its callback; `more`: what a user's own takes beside that."""

    train_data: Any
    valid_data: Any = None
    verbose: bool = True
    saved: bool = True
    show_progress: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, train_data: Any, valid_data: Any, options: Mapping[str, Any]) -> FitArguments:
        """Return the arguments, of which RecBole's are told from others by their names."""
        recboles = {key: options[key] for key in ("verbose", "saved", "show_progress") if key in options}
        more = {key: value for key, value in options.items() if key not in recboles}
        return cls(train_data, valid_data, **recboles, more=more)

    @property
    def loaders(self) -> list[Any]:
        """Those of the two loaders that there are."""
        return [loader for loader in (self.train_data, self.valid_data) if loader is not None]


class Callback:
    """Hooks into a training; each method does nothing, until a subclass needs it."""

    def keeps_best(self, trainer: Any) -> bool:
        """Tell whether it saves the best model itself, so that RecBole's `fit` is to save none."""
        return False

    def on_train_begin(self, trainer: Any) -> None:
        """Begin: nothing is restored or trained yet; here a training that cannot work is refused."""

    def on_epoch_begin(self, trainer: Any, train_data: Any, epoch: int) -> None:
        """Begin an epoch, before its first pass over `train_data`."""

    def on_loss(self, trainer: Any, loss: LossFunction, epoch: int) -> LossFunction:
        """Return what a pass minimises in place of `loss`."""
        return loss

    def on_pass_end(self, trainer: Any, epoch: int) -> None:
        """End a pass over the data."""

    def on_validation(self, trainer: Any, epoch: int, score: float) -> None:
        """See the valid score of the model as it is now; all of RecBole's metrics are in `trainer.state`."""

    def on_train_end(self, trainer: Any) -> None:
        """End: RecBole's `fit` is over."""


class OtherLoss(Callback):
    """Lets every pass minimise `wrap(loss)`."""

    def __init__(self, wrap: Callable[[LossFunction], LossFunction]) -> None:
        self.wrap = wrap

    def on_loss(self, trainer: Any, loss: LossFunction, epoch: int) -> LossFunction:
        """Return what the loss is wrapped in, without parts of it that the trainer's loop drops."""
        return self.wrap(counted(trainer, loss, epoch))

"""Watches methods that stand before ours: where one did not come through to ours, a warning says so."""

from __future__ import annotations

import functools
from typing import Any


class Watched:
    """Stands before a trainer that is expected to reach `RAWPTrainer._train_epoch`, and warns where it did not."""

    def _train_epoch(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        result = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        check_epoch(self, epoch_idx)
        return result


def check_epoch(trainer: Any, epoch: int) -> None:
    """Warn if an epoch that was to be hardened did not come through."""
    if trainer.hardens and trainer.state.epoch_begun != epoch:
        trainer.logger.warning(
            f"{type(trainer).__name__}: epoch {epoch} did not reach the hardened loss; it was plain."
        )


def watch(cls: type) -> None:
    """Watch the loop and the `fit` that a class which derives from ours has of its own, decorated in whatever way."""
    own = {name: vars(cls)[name] for name in ("_train_epoch", "fit") if name in vars(cls)}

    def _train_epoch(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        result = own["_train_epoch"].__get__(self, type(self))(train_data, epoch_idx, *args, **kwargs)
        check_epoch(self, epoch_idx)
        return result

    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = self.fits
        result = own["fit"].__get__(self, type(self))(*args, **kwargs)
        check_fit(self, before)
        return result

    for name, method in (("_train_epoch", _train_epoch), ("fit", fit)):
        if name in own:
            setattr(cls, name, functools.wraps(own[name])(method) if hasattr(own[name], "__name__") else method)


def check_fit(trainer: Any, before: int) -> None:
    """Warn if a `fit` did not come through to ours."""
    if trainer.hardens and trainer.fits == before:
        trainer.logger.warning(
            f"{type(trainer).__name__}: its own fit hides RAWPTrainer's, so no radius is found, nothing repaired. "
            "Derive it from RecBole's Trainer, and harden it by robustify."
        )

"""Lets a killed validation cost no epoch: the state is saved between the two, and a run that goes on begins there.

Both methods are those of whatever trainer it is, a user's own too: its `fit` trains an epoch and then validates it. The
one that goes on runs that `fit` anew from the epoch that was trained, whose training is left out, whatever it does
around it (NCL's clusters), and all is put back just before the validation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from recbole_rawp.training.plain_values import loads

METHODS = ("_train_epoch", "_valid_epoch")


class Between:
    """Stands around a trainer's epochs and validations.

    Attributes:
        trained: the last epoch and what it returned, until it is validated.
        killed: a state that was saved between an epoch and its validation, with which this `fit` begins.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.killed = trainer, trainer.trained_before
        self.trained: tuple[int, Any] | None = None
        trainer.trained_before = None

    def train(self, epoch: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Train an epoch; the one that was trained before the kill returns what it did then."""
        number = args[1] if len(args) > 1 else kwargs.get("epoch_idx")
        if self.killed is not None and number == self.killed["trained"][0]:
            self.trained = self.killed["trained"]
            return self.killed["trained"][1]
        result = epoch(*args, **kwargs)
        begun: int | None = self.trainer.state.epoch_begun
        self.trained = (begun, result) if begun is not None and begun == number and loads(result) else None
        return result

    def validate(self, validation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Validate an epoch, with its state saved before; or the one that the kill left, whose state is put back."""
        killed, trained, self.trained = self.killed, self.trained, None
        if killed is not None and trained is killed["trained"]:
            self.killed = None
            self.trainer.restore(killed)
        elif trained is not None:
            self.trainer.save_state(trained[0], trained=trained)
        return validation(*args, **kwargs)


@contextmanager
def kept_apart(trainer: Any) -> Iterator[None]:
    """Let the state be saved between each epoch of a `fit` and its validation, and be gone on from there."""
    between, own = Between(trainer), {name: vars(trainer).get(name) for name in METHODS}
    for name, around in zip(METHODS, (between.train, between.validate)):
        method = getattr(trainer, name)
        setattr(trainer, name, functools.wraps(method)(functools.partial(around, method)))
    try:
        yield
    finally:
        for name, before in own.items():
            if before is None:
                delattr(trainer, name)
            else:
                setattr(trainer, name, before)

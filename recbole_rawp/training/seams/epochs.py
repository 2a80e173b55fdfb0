"""Enters a trainer's epoch, RecBole's or the user's own: callbacks hook in, and their loss is heard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from recbole_rawp.core.gradients import LossFunction
from recbole_rawp.errors import InputError
from recbole_rawp.training.seams.calls import EPOCH, named, taken, takes
from recbole_rawp.training.seams.loss import LossRoute
from recbole_rawp.training.seams.training_loss import LossFound


class HookedEpochs:
    """Stands before the trainer whose epochs it runs; `trainer.RAWPTrainer` says what it has."""

    asked_for_loss = False  # by `training_loss`: then no epoch begins
    lenient = False  # set by `register`: what cannot be hardened trains plainly, with one warning

    def _train_epoch(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Run an epoch as RecBole does, or the user's own; what that takes beside data and epoch is passed on."""
        epoch = super()._train_epoch  # type: ignore[misc]
        given = named(epoch, args, kwargs, EPOCH, behind=2)
        route = LossRoute(self.model, given.pop("loss_func", None))
        if self.asked_for_loss:
            raise LossFound(route.given)
        loss = self.hooked(route.plain, train_data, epoch_idx)
        if loss == route.plain and not self.hardens_now:
            passed = {} if route.given is route.usual else {"loss_func": route.given}
            result = epoch(train_data, epoch_idx, **passed, **given)
        else:
            result = self.hear(route, loss, partial(epoch, train_data, epoch_idx, **taken(epoch, given)))
        for callback in self.callbacks:
            callback.on_pass_end(self, epoch_idx)
        return result

    def hooked(self: Any, loss: LossFunction, train_data: Any, epoch: int) -> LossFunction:
        """Begin a pass, and an epoch with its first one (some trainers run several); return what it minimises."""
        if self.state.epoch_begun != epoch:
            for callback in self.callbacks:
                callback.on_epoch_begin(self, train_data, epoch)
            self.state.epoch_begun = epoch
        for callback in self.callbacks:
            loss = callback.on_loss(self, loss, epoch)
        return loss

    def hear(self: Any, route: LossRoute, loss: LossFunction, epoch: Callable[..., Any]) -> Any:
        """Run an epoch in which that loss stands for the one that the loop would take, and see that it was taken."""
        route.substitute = loss
        try:
            with route.open():
                result = epoch(**taken(epoch, {"loss_func": route.loss_func}))
        except ValueError as error:
            if not self.refused(error):
                raise
            return float("nan")
        if not route.calls:
            self.cannot_harden(
                f"{type(self).__name__}: its loop takes no batch's loss from loss_func or model.calculate_loss, so it "
                "cannot be hardened. Let it take one of them, or call super()._train_epoch(...)."
            )
        return result

    def cannot_harden(self: Any, reason: str) -> None:
        """Raise InputError for that reason; a `lenient` trainer warns instead, and trains plainly from now on."""
        if not self.lenient:
            raise InputError(reason)
        self.logger.warning(f"{reason} Training plainly.")
        self.hardens = self.perturbable = False

    @contextmanager
    def asked(self: Any) -> Iterator[None]:
        """Let an epoch end before it begins, by a `LossFound` with the loss that it was to have."""
        self.asked_for_loss = True
        try:
            yield
        finally:
            self.asked_for_loss = False

    @contextmanager
    def called_plain(self: Any) -> Iterator[None]:
        """Let checkpoints tell that their model has no defense."""
        config, defense = self.config, self.config["defense"]
        config["defense"] = "none"
        try:
            yield
        finally:
            config["defense"] = defense

    def tells_scores(self: Any) -> bool:
        """Tell whether the trainer's `fit` takes what a search for the radius needs; else as `cannot_harden`."""
        fit = super().fit  # type: ignore[misc]
        missing = [name for name in ("saved", "callback_fn") if not takes(fit, name)]
        if missing:
            self.cannot_harden(
                f"{type(self).__name__}: its fit takes no {' and no '.join(missing)}, which rawp_radius=auto needs. "
                "Let it take them as RecBole's does, or set rawp_radius to a number."
            )
        return not missing

    def heard_scores(self: Any) -> bool:
        """Tell whether the plain training came through to us, epochs and scores; else as `cannot_harden`."""
        if not self.hardens:  # which was told
            return False
        if self.state.epoch_begun is None:
            self.cannot_harden(f"{type(self).__name__}: its fit never called self._train_epoch, which hardens.")
        elif not self.state.search.plain:
            self.cannot_harden(
                f"{type(self).__name__}: its fit never called callback_fn, which tells rawp_radius=auto the scores. "
                "Let it call that after each validation, or set rawp_radius to a number."
            )
        return bool(self.hardens)

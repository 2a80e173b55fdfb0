"""Makes a hardened trainer of one of RecBole's (`robustify`), or gives RecBole hardened ones for all (`register`)."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import recbole.trainer
from recbole.trainer.trainer import DecisionTreeTrainer, TraditionalTrainer, Trainer

from recbole_rawp.errors import InputError
from recbole_rawp.host import compat
from recbole_rawp.training.trainer import RAWPFTTrainer, RAWPTrainer


@cache
def robustify(trainer_class: Any) -> Any:
    """Return `trainer_class` with RAWP-FT in it; the same class for the same argument.

    A trainer that reaches `super()._train_epoch` (RecBole's KGTrainer, MKRTrainer, RecVAETrainer, most of users'
    own) keeps its say over losses and phases; an epoch in which it does not is warned of. One with a loop of its own,
    or a `fit` of its own, or of which this cannot be seen, is called with the hardened loss, and its loop has to
    honour `loss_func` (NCLTrainer): an epoch in which it does not is an error.

    Raises:
        InputError: if `trainer_class` is not a trainer that descends a gradient.
    """
    compat.apply()
    if issubclass(trainer_class, RAWPTrainer):
        return trainer_class
    if issubclass(trainer_class, (TraditionalTrainer, DecisionTreeTrainer)) or not issubclass(trainer_class, Trainer):
        raise InputError(
            f"{trainer_class.__name__} does not train by gradient descent, so it cannot be hardened. Use it as it is."
        )
    if trainer_class is Trainer:
        return RAWPFTTrainer
    name = f"RAWP{trainer_class.__name__}"
    if has_own(trainer_class, "_train_epoch") or has_own(trainer_class, "fit"):
        return type(name, (RAWPFTTrainer, trainer_class), {})
    return type(name, (Watched, trainer_class, RAWPFTTrainer), {})


class Watched:
    """Stands before a trainer that is expected to reach `RAWPTrainer._train_epoch`, and warns where it did not."""

    def _train_epoch(self: Any, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        result = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        if self.hardens and self.state.epoch_begun != epoch_idx:
            self.logger.warning(
                f"{type(self).__name__}: epoch {epoch_idx} did not reach the hardened loss; it was plain."
            )
        return result


def has_own(trainer_class: type, method: str) -> bool:
    """Tell whether some such method between `trainer_class` and RecBole's Trainer is not seen to reach `super()`'s."""
    classes = trainer_class.__mro__[: trainer_class.__mro__.index(Trainer)]
    return any(not reaches_super(vars(cls)[method], method) for cls in classes if method in vars(cls))


def reaches_super(function: Any, method: str, seen: tuple[Any, ...] = ()) -> bool:
    """Tell whether a function calls `super().method`, or one that it decorates and holds on to does.

    A decorator's function that does not use the decorated one, has its own loop: `__wrapped__` alone says nothing.
    """
    if isinstance(function, type) or len(seen) > 20 or any(function is other for other in seen):
        return False
    if isinstance(function, FunctionType):
        if names_super(function.__code__, method):
            return True
        inner = held(function)
    else:  # a partialmethod, a bound method, a decorator that is an object
        inner = [getattr(function, name, None) for name in ("func", "__func__", "__wrapped__")]
    return any(reaches_super(each, method, (*seen, function)) for each in inner if each is not None)


def held(function: FunctionType) -> list[Any]:
    """Return what a function holds on to; a name that has no value yet is left out."""
    found = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            found.append(cell.cell_contents)
    return found


def names_super(code: CodeType, method: str) -> bool:
    """Tell whether code, or that of a function within it, looks up `method` where it has `super()` at hand."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return ("__class__" in code.co_freevars and method in code.co_names) or any(names_super(c, method) for c in inner)


_originals: dict[str, type] = {}


def register() -> None:
    """Make RecBole use hardened trainers: `run_recbole`, HyperTuning and `get_trainer` pick them up unchanged.

    Replaces the gradient trainers in the package `recbole.trainer`, whose names RecBole looks up by model. Models
    that cannot be hardened train plainly, with one warning. Idempotent: called again, it takes the trainers that an
    extension put there since. `unregister` undoes it.
    """
    compat.apply()
    for name, cls in list(vars(recbole.trainer).items()):
        if not isinstance(cls, type) or RAWPTrainer in cls.__mro__:
            continue
        if issubclass(cls, Trainer) and not issubclass(cls, TraditionalTrainer):
            _originals[name] = cls
            setattr(recbole.trainer, name, type(cls.__name__, (robustify(cls),), {"lenient": True}))


def unregister() -> None:
    """Give RecBole its own trainers back."""
    for name, cls in _originals.items():
        setattr(recbole.trainer, name, cls)
    _originals.clear()

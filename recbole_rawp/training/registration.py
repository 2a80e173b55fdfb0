"""Makes a hardened trainer of one of RecBole's (`robustify`), or of all of them (`register`)."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from recbole.trainer.trainer import AbstractTrainer, DecisionTreeTrainer, TraditionalTrainer, Trainer

from recbole_rawp.errors import InputError
from recbole_rawp.host import compat
from recbole_rawp.training.seams.watching import Watched
from recbole_rawp.training.trainer import RAWPFTTrainer, RAWPTrainer


@cache
def robustify(trainer_class: Any) -> Any:
    """Return `trainer_class` with RAWP-FT in it; the same class for the same argument.

    A trainer that reaches `super()._train_epoch` (RecBole's KGTrainer, MKRTrainer, RecVAETrainer, most of users'
    own) keeps its say over losses and phases; an epoch in which it does not is warned of. One with a loop of its own,
    or a `fit` of its own, or of which this cannot be seen, gets the hardened loss: as `loss_func` where its loop uses
    that (NCLTrainer), else from the model's `calculate_loss`. A loop that asks neither is an error.

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


_registered: list[bool] = []  # holds one entry where it is


def register() -> None:
    """Make RecBole's trainers hardened ones, wherever they are made: `run_recbole`, HyperTuning, an extension's runner.

    Every trainer that is made from now on is hardened, of whatever class, older or newer than this call, in whatever
    module. What cannot be hardened, model or trainer, trains plainly, with one warning, and its checkpoints say so.
    Idempotent; `unregister` undoes it.
    """
    compat.apply()
    _registered[:] = [True]
    AbstractTrainer.__new__ = staticmethod(made)


def unregister() -> None:
    """Let RecBole's trainers be its own again."""
    _registered.clear()  # `__new__` stays: Python would not take arguments any more if it were deleted


def made(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a new trainer, not initialised yet: of the hardened class while that is registered."""
    if not _registered or RAWPTrainer in cls.__mro__ or not (args or kwargs):  # without arguments, a copy of one
        return object.__new__(cls)
    try:
        return object.__new__(lenient(cls))
    except InputError as error:
        config = args[0] if args else kwargs["config"]
        if config["defense"] != "none":
            logging.getLogger().warning(f"{error} Training plainly.")
            config["defense"] = "none"
        return object.__new__(cls)


@cache
def lenient(trainer_class: Any) -> Any:
    """Return the hardened class that warns where it cannot harden; its name stays. Raises as `robustify`."""
    own = {"lenient": True, "__module__": trainer_class.__module__, "__doc__": trainer_class.__doc__}
    return type(trainer_class.__name__, (robustify(trainer_class),), own)

"""How does RecBole come to use hardened trainers?  One made of one (`robustify`), or all of them (`register`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import recbole.trainer
from recbole.trainer.trainer import DecisionTreeTrainer, TraditionalTrainer, Trainer

from recbole_rawp.errors import InputError
from recbole_rawp.training.trainer import RAWPFTTrainer, RAWPTrainer


@cache
def robustify(trainer_class: Any) -> Any:
    """Return `trainer_class` with RAWP-FT in it; the same class for the same argument.

    A trainer that reaches `super()._train_epoch` (RecBole's KGTrainer, MKRTrainer, RecVAETrainer, most of users'
    own) keeps its say over losses and phases; one with a loop of its own, or a `fit` of its own, is called with the
    hardened loss, and its loop has to honour `loss_func` (NCLTrainer).

    Raises:
        InputError: if `trainer_class` is not a trainer that descends a gradient.
    """
    if issubclass(trainer_class, RAWPTrainer):
        return trainer_class
    if issubclass(trainer_class, (TraditionalTrainer, DecisionTreeTrainer)) or not issubclass(trainer_class, Trainer):
        raise InputError(
            f"{trainer_class.__name__} does not train by gradient descent, so it cannot be hardened. Use it as it is."
        )
    if trainer_class is Trainer:
        return RAWPFTTrainer
    own = has_own(trainer_class, "_train_epoch") or has_own(trainer_class, "fit")
    bases = (RAWPFTTrainer, trainer_class) if own else (trainer_class, RAWPFTTrainer)
    return type(f"RAWP{trainer_class.__name__}", bases, {})


def has_own(trainer_class: type, method: str) -> bool:
    """Tell whether some such method between `trainer_class` and RecBole's Trainer does not reach that of `super()`."""
    classes = trainer_class.__mro__[: trainer_class.__mro__.index(Trainer)]
    codes = [vars(cls)[method].__code__ for cls in classes if method in vars(cls)]
    return any("__class__" not in code.co_freevars or method not in code.co_names for code in codes)


_originals: dict[str, type] = {}


def register() -> None:
    """Make RecBole use hardened trainers: `run_recbole`, HyperTuning and `get_trainer` pick them up unchanged.

    Replaces the gradient trainers in the package `recbole.trainer`, whose names RecBole looks up by model. Models
    that cannot be hardened train plainly, with one warning. Idempotent: called again, it takes the trainers that an
    extension put there since. `unregister` undoes it.
    """
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

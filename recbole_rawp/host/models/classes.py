"""Finds a model's class from what a user says, and says how a setting names a class."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from recbole.config import Config
from recbole.utils import ModelType
from torch import nn

from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.host.models import recboles
from recbole_rawp.host.models.missing import here_too

OURS = ("recbole.", "recbole_rawp.model.")  # whose models RecBole finds by name
WITHOUT = {ModelType.TRADITIONAL: "its type is TRADITIONAL", ModelType.DECISIONTREE: "its type is DECISIONTREE"}
_importing: list[str] = []  # modules that are imported for a model of theirs


def find(model: Any) -> Any:
    """Return the class that a user's `model` is or names; a name that RecBole knows, and None, as they are.

    Raises:
        InputError: if it names no model, or one that has no gradient or lacks what it needs.
    """
    if model is None:
        return None
    if isinstance(model, str) and ":" not in model:
        recboles.check_model(model)
        return model
    found = imported(model) if isinstance(model, str) else model
    check_class(found, model)
    return found


def imported(name: str) -> Any:
    """Return what `package.module:Class` names; the folder of the process is searched, too, but last.

    Raises:
        InputError: if the module cannot be imported, or has nothing of that name.
    """
    place, _, path = name.partition(":")
    module = module_of(place, name)
    try:
        return attrgetter(path)(module)
    except AttributeError as error:
        if place == "__main__":
            raise InputError(f"model: {path} is of a script. Name its file, as in --model=script:{path}.") from error
        raise InputError(f"model: '{place}' has no '{path}'.{suggestion(path, vars(module))}") from error


def module_of(place: str, name: str) -> ModuleType:
    """Return the module `place` for the model `name`; a script that runs is not run again. Raises as `imported`."""
    if place in ("__main__", script()):
        return sys.modules["__main__"]
    here_too()
    try:
        with noted(place):
            return importlib.import_module(place)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
        raise InputError(
            f"model: '{name}': module '{place}' cannot be imported ({reason}). Write package.module:Class, and start "
            "from the folder that holds it, or put that into PYTHONPATH."
        ) from error


@contextmanager
def noted(place: str) -> Iterator[None]:
    """Note that a module is imported for its model, in which no run may begin."""
    _importing.append(place)
    try:
        yield
    finally:
        _importing.remove(place)


def check_not_importing() -> None:
    """Raise InputError if a run begins while its model's module is imported: a script that does not mind its name."""
    if _importing:
        raise InputError(
            f"model: importing '{_importing[-1]}' begins a run. Put what that file runs under "
            '`if __name__ == "__main__":`, or the model into a file of its own.'
        )


def script() -> str | None:
    """Return the name by which the script that runs could be imported; None in a notebook."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else None


def check_class(found: Any, name: Any) -> None:
    """Raise InputError if this is no class of a model as RecBole has them, or one without a gradient."""
    if not (isinstance(found, type) and issubclass(found, nn.Module) and isinstance(getattr(found, "type", 0), Enum)):
        raise InputError(
            f"model: {name!r} is no RecBole model. Name a class that derives from one of "
            "recbole.model.abstract_recommender, such as GeneralRecommender."
        )
    check_gradient(found)


def check_gradient(model_class: Any) -> None:
    """Raise InputError for a model that is not trained by gradient descent: one of RecBole's, or of such a type."""
    for cls in model_class.__mro__:
        if cls.__module__.startswith(OURS):
            recboles.check_gradient(cls.__name__)
    if reason := WITHOUT.get(getattr(model_class, "type", None)):
        recboles.check_gradient(model_class.__name__, reason)


def is_found(model_class: type) -> bool:
    """Tell whether Python finds the class by its module and name."""
    try:
        return attrgetter(model_class.__qualname__)(sys.modules[model_class.__module__]) is model_class
    except (AttributeError, KeyError):
        return False


def check_findable(model_class: type) -> None:
    """Raise InputError if no file could name the class: it was defined inside a function, or its name is another's."""
    if not is_found(model_class):
        raise InputError(
            f"model: no checkpoint can name {model_class.__qualname__} of {model_class.__module__}, for Python does "
            "not find it there. Define it at the top level of a module, or train with saved=False."
        )


def is_own(model_class: type) -> bool:
    """Tell whether a class is of the user's own: neither RecBole's nor ours."""
    return not model_class.__module__.startswith(OURS)


def spelled(model_class: type) -> str:
    """Return what names a class as a setting: RecBole's and ours by name, others as `package.module:Class`."""
    place = model_class.__module__
    if not is_own(model_class):
        return model_class.__name__
    if place == "__main__" and is_found(model_class):
        place = script() or place
    return f"{place}:{model_class.__qualname__}"


def named(config: Config) -> str:
    """Return what names the model of a configuration, also of a checkpoint of another process's script."""
    found = getattr(config, "model_class", None)  # not in checkpoints of RecBole's first versions
    if not isinstance(found, type):
        return str(config["model"])
    asked = config.external_config_dict.get("model")
    of_a_script = found.__module__ == "__main__" and isinstance(asked, str) and ":" in asked
    return asked if of_a_script else spelled(found)

"""Unpickles what a RecBole checkpoint is made of, and refuses the rest by name before anything of it runs."""

from __future__ import annotations

import copyreg
import functools
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from operator import attrgetter
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import nn

from recbole_rawp.host.models.missing import Missing, here_too, missing

ADMITTED = {
    "builtins": {"object", "set", "frozenset", "list", "dict", "tuple", "complex", "range", "slice", "bytearray"},
    "collections": {"OrderedDict", "defaultdict"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "logging": {"getLogger"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath"},
    "torch": {"device", "Size"},
    "torch._utils": {"_rebuild_parameter", "_rebuild_sparse_tensor", "_rebuild_tensor", "_rebuild_tensor_v2"},
    "torch.serialization": {"_get_layout"},
    "yaml.loader": {"FullLoader"},
}
OLD_NAMES = {"copy_reg": "copyreg", "__builtin__": "builtins"}  # those of Python 2, which protocol 2 writes
# Whose classes are admitted: RecBole's settings, data and models, of which some models keep parts.
HOMES = ("recbole.config", "recbole.data", "recbole.model", "recbole.sampler", "recbole.utils", "recbole_rawp.model")
Job = TypeVar("Job", bound=Callable[..., Any])
_trusted: ContextVar[bool | None] = ContextVar("trusted", default=None)  # None: no job on a checkpoint runs


class NotAdmitted(pickle.UnpicklingError):
    """A pickle asks for something that no RecBole checkpoint needs."""


def refusal(file: Any, error: NotAdmitted) -> str:
    """Say that a file is not loaded, and what to do."""
    return (
        f"checkpoint: '{file}' holds {error}, which no RecBole checkpoint needs, and loading it may run code. If you "
        "trust the file, say --trust_checkpoint."
    )


@contextmanager
def trusting(trusted: bool = True) -> Iterator[None]:
    """Let checkpoints that are read inside run whatever code they hold."""
    token = _trusted.set(trusted)
    try:
        yield
    finally:
        _trusted.reset(token)


def guards() -> bool:
    """Tell whether a job on a checkpoint runs that is not trusted, nor are the files that its settings name."""
    return _trusted.get() is False


def asked_to_trust(job: Job) -> Job:
    """Let a job whose `trust_checkpoint` is true read checkpoints that run whatever code they hold."""

    @functools.wraps(job)
    def run(*args: Any, trust_checkpoint: bool = False, **options: Any) -> Any:
        with trusting(trust_checkpoint):
            return job(*args, trust_checkpoint=trust_checkpoint, **options)

    return cast(Job, run)


class Unpickler(pickle._Unpickler):  # the one in Python, whose steps can be watched
    """An unpickler that looks up admitted names alone; for `torch.load`, which finds storages by itself.

    A class that is not here, as of a user's model whose module is not imported, is read as a stand-in, of which nothing
    runs (`models.missing`).
    """

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for; raise NotAdmitted if a checkpoint needs no such thing."""
        if _trusted.get() or admitted(module, name):
            here_too()
            try:
                return super().find_class(module, name)
            except (ImportError, AttributeError) as error:
                return missing(module, name, str(error))
        if is_here(module, name):
            raise NotAdmitted(f"{module}.{name}")
        return missing(module, name, "its module is not imported, or has no such class")

    def load_reduce(self) -> None:
        """Call what a pickle calls, if a checkpoint needs it."""
        called, arguments = self.stack[-2:]
        check_call(called)
        if called is copyreg._reconstructor:  # type: ignore[attr-defined]  # which calls the second one
            check_call(arguments[1])
        super().load_reduce()  # type: ignore[misc]

    def load_newobj(self) -> None:
        """Make an object of a class, if that alone runs nothing."""
        check_made(self.stack[-2])
        super().load_newobj()  # type: ignore[misc]

    def load_newobj_ex(self) -> None:
        """Make an object of a class, if that alone runs nothing."""
        check_made(self.stack[-3])
        super().load_newobj_ex()  # type: ignore[misc]

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        check_call(kind)
        super()._instantiate(kind, arguments)  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
    }


def check_call(kind: Any) -> None:
    """Raise NotAdmitted if calling it may run more than a checkpoint needs: constructors of RecBole read and evaluate.

    Objects of its classes are made without their constructor.
    """
    if not _trusted.get() and isinstance(kind, type) and is_theirs(kind) and not issubclass(kind, Enum):
        raise NotAdmitted(f"a call of {kind.__module__}.{kind.__qualname__}")


def check_made(kind: Any) -> None:
    """Raise NotAdmitted if making an object of a class without its constructor may run more, too."""
    own = isinstance(kind, type) and kind.__new__ is not object.__new__ and is_theirs(kind)
    if not _trusted.get() and own and not issubclass(kind, Enum):
        raise NotAdmitted(f"{kind.__module__}.{kind.__qualname__}")


def is_theirs(kind: type) -> bool:
    """Tell whether a class is of RecBole's, a network, or not here."""
    return in_homes(kind.__module__) or issubclass(kind, (nn.Module, Missing))


def in_homes(module: str) -> bool:
    """Tell whether a module is of those whose classes are admitted."""
    return any(module == home or module.startswith(f"{home}.") for home in HOMES)


def is_here(module: str, name: str) -> bool:
    """Tell whether a name stands for something: of an imported module, or of Python's own library."""
    if module.partition(".")[0] in getattr(sys, "stdlib_module_names", ()) and module != "__main__":
        return True
    try:
        attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return False
    return True


def admitted(module: str, name: str) -> bool:
    """Tell whether a checkpoint may hold this: a name of the list, a class of RecBole's, or a model's class.

    A user's own model is admitted if it is imported already: no module is imported for a pickle.
    """
    if name in ADMITTED.get(OLD_NAMES.get(module, module), ()):
        return True
    if module == "torch":
        return isinstance(getattr(torch, name, None), torch.dtype)
    if module.startswith("torch.nn.modules."):
        return is_model(module, name)
    if in_homes(module):
        __import__(module)
        found = getattr(sys.modules[module], name, None)
        return isinstance(found, type) and found.__module__ == module
    return is_model(module, name)


def is_model(module: str, name: str) -> bool:
    """Tell whether an imported module defines a class of torch's Module of this name."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module


class PICKLE:
    """Takes the place of the module `pickle` in `torch.load`."""

    Unpickler: ClassVar = Unpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """Load as `pickle.load`, admitted names alone."""
        return Unpickler(file, **options).load()

"""Runs a model with other weights in place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

if TYPE_CHECKING:
    from recbole_rawp.core.ball import Weights

# Beginnings of the attributes in which RecBole models keep propagated embeddings between calls of full_sort_predict.
CACHES = ("restore_", "i_embedding")
INTERNAL = vars(nn.Module()).keys()  # torch's own attributes of a module
FEW = 256  # entries of a list or dictionary that may hold weights
_at_first: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()  # parameters with the names of caches


@contextmanager
def overlay(model: nn.Module, tensors: Weights) -> Iterator[None]:
    """Run `model` with `tensors` in place of the weights of those names.

    The long form: remember every place that holds one of these weights (a tied weight has several, and a model may
    keep it in a list, too), put the tensor there, clear cached embeddings; afterwards, also after an error, put the
    very same parameter objects back and clear the caches again. No value is written, so the restored weights are
    bit-equal. Gradients flow through the tensors as given: `w + delta` passes them on to `w`.

    Args:
        model: any module; calls to any of its methods see the tensors.
        tensors: parameter name -> tensor of the same shape.
    """
    modules = list(model.modules())
    replacement = {id(model.get_parameter(name)): tensor for name, tensor in tensors.items()}
    places = [
        (module, leaf, weight)
        for module in modules
        for leaf, weight in module._parameters.items()
        if weight is not None and id(weight) in replacement
    ]
    copies = _copies(modules, replacement)
    for tensor in replacement.values():
        tensor._is_param = True  # isinstance(tensor, nn.Parameter), which EulerNet asks for, holds
    try:
        for module, leaf, weight in places:
            module._parameters[leaf] = replacement[id(weight)]  # type: ignore[assignment]
        for holder, key, value in copies:
            holder[key] = _replaced(value, replacement)
        _refresh(modules, places)
        yield
    finally:
        for module, leaf, weight in places:
            module._parameters[leaf] = weight
        for holder, key, value in copies:
            holder[key] = value
        _refresh(modules, places)


def _copies(modules: list[nn.Module], replacement: Mapping[int, torch.Tensor]) -> list[tuple[Any, Any, Any]]:
    """Return where else modules hold these weights: in attributes of theirs, lists, dictionaries and tuples."""
    found: list[tuple[Any, Any, Any]] = []
    for holder in (module.__dict__ for module in modules):
        for name in holder.keys() - INTERNAL:
            value = holder[name]
            entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            if isinstance(value, (list, dict)) and len(value) <= FEW:
                found += [(value, key, entry) for key, entry in entries if _holds(entry, replacement)]
            elif _holds(value, replacement):
                found.append((holder, name, value))
    return found


def _holds(value: Any, replacement: Mapping[int, torch.Tensor]) -> bool:
    """Tell whether a value is one of the weights, or a tuple with one in it."""
    if isinstance(value, tuple):
        return len(value) <= FEW and any(id(entry) in replacement for entry in value)
    return id(value) in replacement


def _replaced(value: Any, replacement: Mapping[int, torch.Tensor]) -> Any:
    """Return what stands for such a value."""
    if isinstance(value, tuple):
        return tuple(replacement.get(id(entry), entry) for entry in value)
    return replacement[id(value)]


def keeps_embeddings(model: nn.Module) -> bool:
    """Tell whether the model keeps propagated embeddings between calls."""
    return any(name.startswith(CACHES) for module in model.modules() for name in module.__dict__)


def clear_caches(modules: Iterable[nn.Module]) -> None:
    """Forget propagated embeddings, which would hide a change of the weights from the next evaluation."""
    for module in modules:
        drop_cached_weights(module)
        for name, value in module.__dict__.items():
            if value is not None and name.startswith(CACHES):
                module.__dict__[name] = None


def drop_cached_weights(module: nn.Module) -> None:
    """Forget a weight that was cached as it is: torch takes that for one parameter more, under the cache's name.

    What the module had under such a name when it was seen first stays.
    """
    names = frozenset(name for name in module._parameters.keys() if name.startswith(CACHES))  # noqa: SIM118, TorchScript
    for name in names - _at_first.setdefault(module, names):
        del module._parameters[name]
        module.__dict__[name] = None


def _refresh(modules: list[nn.Module], places: list[tuple[nn.Module, str, nn.Parameter]]) -> None:
    """Bring up to date what is derived from the weights: recurrent layers' own list of them, and caches."""
    for module, _, _ in places:
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    clear_caches(modules)


def exact(model: nn.Module) -> AbstractContextManager[None]:
    """Let cuDNN compute in whole float32, and not at all in models with recurrent layers.

    A change of the weights by less than TF32 rounds would not be seen; and cuDNN's recurrent layers have no backward
    pass in evaluation mode.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    return torch.backends.cudnn.flags(enabled=not recurrent, deterministic=True, allow_tf32=False)

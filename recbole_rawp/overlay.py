"""How does a model run with other weights?"""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache

from torch import nn

from recbole_rawp.selection import Weights

# Attributes in which RecBole models keep propagated embeddings between calls of full_sort_predict.
CACHES = ("restore_*_e", "i_embedding")


@contextmanager
def overlay(model: nn.Module, tensors: Weights) -> Iterator[None]:
    """Run `model` with `tensors` in place of the weights of those names.

    The long form: remember every place that holds one of these weights (a tied weight has several), put the
    tensor there, clear cached embeddings; afterwards, also after an error, put the very same parameter objects
    back and clear the caches again. No value is written, so the restored weights are bit-equal. Gradients flow
    through the tensors as given: `w + delta` passes them on to `w`.

    Args:
        model: any module; calls to any of its methods see the tensors.
        tensors: parameter name -> tensor of the same shape.
    """
    replacement = {id(model.get_parameter(name)): tensor for name, tensor in tensors.items()}
    places = [
        (module, leaf, weight)
        for module in model.modules()
        for leaf, weight in module._parameters.items()
        if weight is not None and id(weight) in replacement
    ]
    for tensor in replacement.values():
        tensor._is_param = True  # isinstance(tensor, nn.Parameter), which EulerNet asks for, holds
    try:
        for module, leaf, weight in places:
            module._parameters[leaf] = replacement[id(weight)]  # type: ignore[assignment]
        _refresh(model, places)
        yield
    finally:
        for module, leaf, weight in places:
            module._parameters[leaf] = weight
        _refresh(model, places)


def clear_caches(model: nn.Module) -> None:
    """Forget propagated embeddings, which would hide a change of the weights from the next evaluation."""
    for module in model.modules():
        for name, value in module.__dict__.items():
            if value is not None and _is_cache(name):
                module.__dict__[name] = None


@cache
def _is_cache(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in CACHES)


def _refresh(model: nn.Module, places: list[tuple[nn.Module, str, nn.Parameter]]) -> None:
    """Bring up to date what is derived from the weights: recurrent layers' own list of them, and caches."""
    for module in {module for module, _, _ in places}:
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    clear_caches(model)

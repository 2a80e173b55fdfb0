"""Selects the weights of a RecBole model that a target names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tabulate import tabulate
from torch import nn

from recbole_rawp.core import selection
from recbole_rawp.errors import InputError, naming
from recbole_rawp.host import vocabulary

if TYPE_CHECKING:
    from recbole_rawp.config.settings import Training
    from recbole_rawp.core.ball import Weights


def perturbed_weights(model: nn.Module, target: Any) -> Weights:
    """Return the weights of a RecBole model that `target` names; `vocabulary.tables` knows its embeddings.

    Raises:
        InputError: if there is none.
    """
    return selection.select(model, target, tables=vocabulary.tables(model).names)


def hidden_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers that own hidden weights, whose outputs an attack on activations moves: name -> layer.

    Raises:
        InputError: if there is none.
    """
    owners = selection.modules(model, perturbed_weights(model, "hidden"))
    layers = {name: module for name, module in model.named_modules() if name in owners}
    found = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    if not found:
        raise InputError(f"target 'activations': {type(model).__name__} has no hidden linear layer. Attack weights.")
    return found


def moved(model: nn.Module, target: Any) -> dict[str, Any]:
    """Return what an attack on `target` moves: weights by name, or for `activations` the layers whose outputs move.

    Raises:
        InputError: if there is none.
    """
    return hidden_layers(model) if target == "activations" else perturbed_weights(model, target)


def chosen_weights(model: nn.Module, settings: Training) -> tuple[Weights, dict[str, float]]:
    """Return the weights that the settings perturb (or whose layers' outputs they do), and omega.

    Raises:
        InputError: naming the option, if it matches no weight.
    """
    with naming("rawp_target"):
        if settings.target == "activations":
            weights: Weights = {f"{name}.weight": layer.weight for name, layer in hidden_layers(model).items()}
        else:
            weights = perturbed_weights(model, settings.target)
    with naming("rawp_layer_weights"):
        return weights, selection.layer_weights(weights, settings.layer_weights, owner=type(model).__name__)


def weight_table(model: nn.Module, weights: Weights, omega: dict[str, float], defense: str) -> str:
    """Return the table of perturbed weights: name, shape, share of all parameters, omega; and what an embedding is."""
    total = sum(parameter.numel() for parameter in model.parameters())
    rows = [
        (name, " x ".join(map(str, weight.shape)), f"{weight.numel() / total:.2%}", f"{omega[name]:.3g}")
        for name, weight in weights.items()
    ]
    share = sum(weight.numel() for weight in weights.values()) / total
    title = f"Defense {defense} perturbs {len(rows)} weights of {type(model).__name__} ({share:.2%} of its parameters)"
    table = tabulate(rows, headers=["weight", "shape", "parameters", "omega"], disable_numparse=True)
    return f"{title}\n{table}\nNot hidden: embedding modules, and {vocabulary.tables(model).rule}."


def weights_of(model: nn.Module) -> Weights:
    """Return copies of all parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

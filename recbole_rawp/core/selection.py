"""Selects the weights that are perturbed, how strongly each is, and which of them now."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import nn

from recbole_rawp.errors import InputError, suggestion

if TYPE_CHECKING:
    from recbole_rawp.core.ball import Weights

TARGETS = ("hidden", "embeddings", "all")
LAYER_WEIGHTS = ("uniform", "norm", "criticality")
EMBEDDING_MODULES = (nn.Embedding, nn.EmbeddingBag)
NORM_MODULES = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def matrices(model: nn.Module) -> dict[str, tuple[nn.Module, nn.Parameter]]:
    """Return every trainable weight of two or more dimensions as name -> (owning module, weight).

    Biases and normalisation layers are left out; a weight used in several places appears once.
    """
    found: dict[str, tuple[nn.Module, nn.Parameter]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, NORM_MODULES):
            continue
        for leaf, weight in module.named_parameters(recurse=False):
            if weight.dim() >= 2 and weight.requires_grad and id(weight) not in seen:
                seen.add(id(weight))
                found[f"{path}.{leaf}" if path else leaf] = (module, weight)
    return found


def sized(model: nn.Module, vocabulary: Iterable[int]) -> frozenset[str]:
    """Return the names of the weights with a dimension that is a number in `vocabulary`, or the sum of two.

    Such a matrix holds one row or column per user, item or entity, whatever module owns it (MultiDAE's first Linear,
    say), or a hidden layer has that width by chance. Exactly these numbers: one off would hit more innocent layers.
    """
    sizes = sorted({size for size in vocabulary if size > 1})
    big = frozenset(sizes) | {a + b for a, b in combinations(sizes, 2)}
    return frozenset(name for name, (_, weight) in matrices(model).items() if not big.isdisjoint(weight.shape))


def among_weights(target: str | Sequence[str]) -> str | Sequence[str]:
    """Return the target for what can only move weights: the hidden ones, where activations are hardened."""
    return "hidden" if target == "activations" else target


def select(model: nn.Module, target: str | Sequence[str], *, tables: Collection[str] = ()) -> Weights:
    """Return the weights that `target` names, in the model's order.

    Args:
        model: any module.
        target: `hidden` (neither of an embedding module nor in `tables`), `embeddings` (the others), `all`, or
            one or more fnmatch patterns over parameter names.
        tables: names of weights that are embeddings, whatever module owns them.

    Raises:
        InputError: if a pattern, or the target as a whole, matches no weight.
    """
    found = matrices(model)
    if isinstance(target, str) and target in TARGETS:
        embeddings = {name for name, (at, _) in found.items() if isinstance(at, EMBEDDING_MODULES) or name in tables}
        wanted = {"hidden": found.keys() - embeddings, "embeddings": embeddings, "all": found.keys()}[target]
        if not wanted:
            raise nothing_selected(type(model).__name__, target)
    else:
        patterns = [target] if isinstance(target, str) else list(target)
        wanted = {name for pattern in patterns for name in matching(pattern, found, type(model).__name__)}
    return {name: weight for name, (_, weight) in found.items() if name in wanted}


def matching(pattern: str, names: Iterable[str], owner: str) -> list[str]:
    """Return the names that the fnmatch `pattern` matches; raise InputError when there is none."""
    names = list(names)
    hits = [name for name in names if fnmatchcase(name, pattern)]
    if not hits:
        raise InputError(
            f"pattern '{pattern}' matches no weight of {owner}.{suggestion(pattern, [*TARGETS, *names])}"
            f" Available: {', '.join(names) or 'none'}"
        )
    return hits


def nothing_selected(owner: str, target: str) -> InputError:
    """Return the error for a model that has no weight of the kind `target`, naming the remedy."""
    other = "embeddings" if target == "hidden" else "hidden"
    return InputError(
        f"target '{target}': {owner} has no {target} weight to perturb. "
        f"Use --rawp_target={other} (and --attack_target={other}), or patterns over its parameter names."
    )


def modules(model: nn.Module, weights: Iterable[str]) -> dict[str, list[str]]:
    """Group the names in `weights` by the module that owns them: module name -> names of its weights.

    A raw parameter of a module that has children (NAIS, SINE) is a unit of its own, under its own name.
    """
    groups: dict[str, list[str]] = {}
    for name in weights:
        owner = name.rpartition(".")[0]
        leaf = next(model.get_submodule(owner).children(), None) is None
        groups.setdefault(owner if owner and leaf else name, []).append(name)
    return groups


def layer_weights(
    weights: Weights, rule: str | Mapping[str, float], *, owner: str = "the selection"
) -> dict[str, float]:
    """Return omega, the relative radius of each tensor.

    `uniform` gives 1 and `norm` the tensor's Frobenius norm, scaled to mean 1 over the selection; a mapping
    pattern -> weight is taken literally, the last matching pattern wins, and what none matches gets 1. `criticality`
    is uniform until it has been measured (`criticality.omega`).

    Raises:
        InputError: if a pattern matches none of the weights of `owner`.
    """
    if not isinstance(rule, str):
        omega = dict.fromkeys(weights, 1.0)
        for pattern, value in rule.items():
            omega.update(dict.fromkeys(matching(pattern, weights, owner), float(value)))
        return omega
    if rule != "norm":
        return dict.fromkeys(weights, 1.0)
    return mean_one({name: float(torch.linalg.vector_norm(weight.detach())) for name, weight in weights.items()})


def mean_one(values: Mapping[str, float]) -> dict[str, float]:
    """Scale values that are not negative to mean 1; all 1 where all are 0."""
    mean = sum(values.values()) / len(values)
    return {name: value / mean if mean > 0 else 1.0 for name, value in values.items()}


def draw_mask(names: Iterable[str], probability: float, generator: torch.Generator) -> dict[str, bool]:
    """Draw m_l ~ Bernoulli(probability) for each name, independently, from `generator`."""
    names = list(names)
    draws = torch.rand(len(names), generator=generator)
    return {name: bool(draw < probability) for name, draw in zip(names, draws)}

"""Threats that put other values in the place of weights: what storing or serving a model does to it, no adversary."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from recbole_rawp.core.ball import Weights
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.threats.setting import CLEAN, TRAINING, UNIVERSAL
from recbole_rawp.threats.threat import KINDS, VARIANTS, Change, Context, Threat

if TYPE_CHECKING:
    from recbole_rawp.core.losses.attack_loss import AttackLoss


class Replacement(Threat):
    """Other values for the weights of a target; biases and normalisation layers stay as they are.

    Complex weights are left out. How far the weights moved is noted: the radius of an attack of equal norm. Random
    values are drawn `draws` times at each level.
    """

    scope: str = UNIVERSAL
    verb: ClassVar[str]  # what is done to the weights, for notes
    grades: ClassVar[str] = ""  # the key of an entry that holds the levels; empty if there is one alone
    untrainable: ClassVar[tuple[str, ...]] = ()  # variants under which no model can be trained
    wild: ClassVar[bool] = False  # whether weights may become anything: how far they moved then says nothing

    @abstractmethod
    def replaced(self, variant: str, level: float, weights: Weights, generator: torch.Generator) -> Weights:
        """Return the values that take the place of `weights`, by the same names and of the same shapes."""

    def named(self, variant: str, level: float) -> str:
        """Return a variant at a level in words."""
        return VARIANTS[variant].title

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the model as it is, then with other values, variant by variant."""
        loss, found = context.loss(self.target), context.moved(self.target)
        weights = {name: weight.detach() for name, weight in found.items() if not weight.is_complex()}
        clean, moved = {TRAINING: loss.value({})}, []
        for variant in self.variants:
            yield Change(variant, CLEAN, partial(overlay, context.model, {}), clean)
            for level, draw in product(self.levels[1:], range(self.draws)):
                generator = torch.Generator().manual_seed(context.seed + draw)
                values = self.replaced(variant, level, weights, generator)
                run = partial(overlay, context.model, values)
                yield Change(variant, level, run, {TRAINING: self.loss_of(loss, run)})
                if not self.wild:
                    whole, most = distances(weights, values)
                    moved.append(f"{self.named(variant, level)} {whole:.2g} ({most:.2g})")
        if moved:
            self.tell(context, moved)

    def tell(self, context: Context, moved: list[str]) -> None:
        """Note how far the weights moved."""
        context.note(
            f"How far {self.verb} moves {self.setting.what}, as a share of their norm (in brackets: the tensor "
            f"that moves most, as a share of its own): {', '.join(moved)}. An attack of equal norm has this radius."
        )

    def loss_of(self, loss: AttackLoss, run: Callable[[], AbstractContextManager[None]]) -> float:
        """Return the loss of the changed model; NaN where weights may be anything, and the loss refuses them."""
        try:
            return loss.mean(run)
        except (RuntimeError, ValueError):
            if not self.wild:
                raise
            return math.nan

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target that has no stored form."""
        if entry["target"] != "activations":
            return ""
        return f"attack_target: activations are not stored, so {entry['variants'][0]} cannot change them. Name weights."


@dataclass(frozen=True)
class Trainable:
    """What a variant at its one level puts in the place of weights, for training under it."""

    threat: Replacement
    variant: str

    def __call__(self, weights: Weights, generator: torch.Generator) -> Weights:
        """Return the values."""
        return self.threat.replaced(self.variant, self.threat.levels[1], weights, generator)


def trainable(variant: str, level: float | None) -> Trainable:
    """Return a variant at a level as training takes it.

    Raises:
        InputError: if there is no such variant, or it has no such level.
    """
    possible = [name for name, one in KINDS.items() if issubclass(one, Replacement) and name not in one.untrainable]
    if variant not in possible:
        raise InputError(
            f"rawp_perturbation: {variant!r} is not valid; expected ball, none, or what a model can be trained under: "
            f"{', '.join(possible)}.{suggestion(variant, possible)}"
        )
    kind = KINDS[variant]
    assert issubclass(kind, Replacement)
    if bool(kind.grades) != (level is not None):
        remedy = f"has {kind.grades}: set it, say to 0.01" if kind.grades else "has no levels: leave it out"
        raise InputError(f"rawp_perturbation_level: {level!r}, but {variant} {remedy}.")
    threat = kind.of({**kind.DEFAULTS, "variants": (variant,), "optional": False, kind.grades: [level]})
    assert isinstance(threat, Replacement)
    return Trainable(threat, variant)


def distances(weights: Weights, values: Weights) -> tuple[float, float]:
    """Return ||values - weights|| / ||weights|| over all tensors, and the largest of a tensor by itself."""
    pairs = [(float((values[name] - weight).norm()), float(weight.norm())) for name, weight in weights.items()]
    whole = sum(norm**2 for _, norm in pairs) ** 0.5
    if not whole:
        return 0.0, 0.0
    return sum(change**2 for change, _ in pairs) ** 0.5 / whole, max(c / norm for c, norm in pairs if norm)

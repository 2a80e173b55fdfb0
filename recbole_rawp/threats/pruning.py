"""Setting the smallest weights to zero, as a model that is made smaller has them; it is not trained again.

A share p of each tensor's entries, those with the smallest |w|; or of its rows, those with the smallest norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recbole_rawp.core.ball import Weights
from recbole_rawp.threats.entries import graded, within, wrong_levels
from recbole_rawp.threats.replacement import Replacement
from recbole_rawp.threats.setting import Setting, Words, target_name
from recbole_rawp.threats.threat import Variant, register


def kept(size: Tensor, share: float) -> Tensor:
    """Return which entries stay: all but the round(share * n) smallest."""
    order = size.flatten().argsort(stable=True)
    stays = torch.ones_like(order, dtype=torch.bool)
    stays[order[: round(share * order.numel())]] = False
    return stays.reshape(size.shape)


def entries(weight: Tensor, share: float) -> Tensor:
    """Return the weight without its smallest entries."""
    return weight * kept(weight.abs(), share)


def rows(weight: Tensor, share: float) -> Tensor:
    """Return the weight without its smallest rows."""
    stays = kept(weight.flatten(1).norm(dim=1), share)
    return weight * stays.reshape(-1, *[1] * (weight.dim() - 1))


PRUNED = {"pruning": entries, "pruning_rows": rows}


@dataclass(frozen=True)
class Pruning(Replacement):
    """Weights of a target without a share of their smallest entries or rows, at several shares."""

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"target": "all", "shares": (0.1, 0.3, 0.5, 0.7, 0.9)}
    verb: ClassVar[str] = "pruning"
    grades: ClassVar[str] = "shares"

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), unit="share pruned", scope=self.scope)

    def named(self, variant: str, level: float) -> str:
        """Return a variant at a level in words."""
        return f"{super().named(variant, level)} {level:.0%}"

    def replaced(self, variant: str, level: float, weights: Weights, generator: torch.Generator) -> Weights:
        """Return the weights without their smallest entries or rows."""
        return {name: PRUNED[variant](weight, level) for name, weight in weights.items()}

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target, or with the shares."""
        return wrong_levels("shares", entry["shares"], *within(1)) or super().check(entry)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        return {"methods": self.variants, "target": self.target, "shares": self.levels[1:]}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Pruning:
        """Return the threat that a complete entry of a suite describes."""
        return cls(entry["variants"], entry["target"], graded(entry["shares"]), optional=entry["optional"])


class PruningWords(Words):
    """The words of pruning."""

    noun, nouns = "share", "shares"
    adversary = False

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what}, the smallest set to zero"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "share of each tensor that is set to zero"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model at a share."""
        return f"{variants} takes {level:.0%} of {setting.what} away"

    def amount(self, level: float) -> str:
        """Return how much was pruned."""
        return f"{level:.0%}"


register(
    Pruning,
    {"pruning": Variant("pruning"), "pruning_rows": Variant("pruning of rows")},
    {"share pruned": PruningWords()},
)

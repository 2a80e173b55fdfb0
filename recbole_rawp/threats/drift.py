"""A model on its way to another checkpoint of itself, and beyond: yesterday's, one trained on, one of another seed.

    w(t) = w + t (w' - w)      t = 0 the model, 1 the other one, 2 as far again in the same direction
    noise as large             w + t |w' - w| u, u a random direction of norm 1 in each tensor

Scores of a model that is replaced bit by bit, averaged with its predecessor, or stale, lie on that line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from recbole_rawp.core.ball import Weights, random_direction
from recbole_rawp.core.overlay import overlay
from recbole_rawp.threats.entries import graded, within, wrong_levels
from recbole_rawp.threats.replacement import distances
from recbole_rawp.threats.setting import TRAINING, UNIVERSAL, Setting, Words, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register


@dataclass(frozen=True)
class Drift(Threat):
    """The way to another checkpoint of the same shapes, at several shares of it.

    With the target `all` every parameter goes, biases too; what is no parameter (statistics of BatchNorm) stays.

    Attributes:
        checkpoint: the other one's file.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    checkpoint: str
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {
        "target": "all",
        "shares": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
        "checkpoint": None,
    }
    scope: str = UNIVERSAL

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), unit="share of the way", scope=self.scope)

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the model as it is, then on its way, share by share."""
        assert context.other is not None
        weights = dict(context.model.named_parameters()) if self.target == "all" else context.moved(self.target)
        weights, other = {n: w.detach() for n, w in weights.items()}, context.other(self.checkpoint)
        way = {name: other[name] - weight for name, weight in weights.items()}
        whole, most = distances(weights, {name: other[name] for name in weights})
        context.note(
            f"From {self.setting.what} to those of '{self.checkpoint}' it is {whole:.2g} of their norm; the tensor "
            f"that moves most goes {most:.2g} of its own. An attack of equal norm has this radius."
        )
        for variant in self.variants:
            direction = way if variant == "drift" else as_large(way, context.seed)
            yield from self.along(variant, weights, direction, context)

    def along(self, variant: str, weights: Weights, direction: Weights, context: Context) -> Iterator[Change]:
        """Yield the model at each share of a direction."""
        loss = context.loss(self.target)
        for share in self.levels:
            values = {name: weight + share * direction[name] for name, weight in weights.items()} if share else {}
            run = partial(overlay, context.model, values)
            yield Change(variant, share, run, {TRAINING: loss.mean(run)})

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target, with the shares, or that there is no other checkpoint."""
        if wrong := wrong_levels("shares", entry["shares"], *within(10)):
            return wrong
        if not entry["checkpoint"]:
            return (
                "attack_checkpoint: drift goes to another checkpoint of the same model, and none is named. Name a file."
            )
        if entry["target"] == "activations":
            return "attack_target: activations are in no checkpoint, so they cannot drift. Name weights."
        return ""

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        own = {"methods": self.variants, "target": self.target, "shares": self.levels[1:]}
        return own | {"checkpoint": self.checkpoint}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Drift:
        """Return the threat that a complete entry of a suite describes."""
        levels, file = graded(entry["shares"]), entry["checkpoint"]
        return cls(entry["variants"], entry["target"], levels, file, optional=entry["optional"])


def as_large(way: Weights, seed: int) -> Weights:
    """Return a random direction whose tensors have the norms of these."""
    drawn = random_direction(way, torch.Generator().manual_seed(seed))
    return {name: drawn[name] * (change.norm() / drawn[name].norm()) for name, change in way.items()}


class DriftWords(Words):
    """The words of drift."""

    noun, nouns = "share", "shares"
    adversary = False

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what}, on the way to another checkpoint"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "of the way to the other checkpoint"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model at a share."""
        return f"{variants} takes {setting.what} {level:.0%} of the way to another checkpoint"

    def amount(self, level: float) -> str:
        """Return how far it went."""
        return f"{level:.0%} of the way"


register(
    Drift,
    {"drift": Variant("drift"), "drift_noise": Variant("noise as large as the drift")},
    {"share of the way": DriftWords()},
)

"""Rounding to bfloat16 and back, as a model that is stored or run in half the memory is.

bfloat16 keeps the 8 bits of float32's exponent and 7 of its fraction, rounded to the nearest, ties to even:
|bf16(w) - w| <= 2^-8 |w| for normal numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from recbole_rawp.core.overlay import overlay
from recbole_rawp.threats.setting import CLEAN, TRAINING, UNIVERSAL, Setting, Words, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register

ROUNDED = 1.0  # the only level beside the clean model


@dataclass(frozen=True)
class Bf16(Threat):
    """Weights of a target, rounded to bfloat16 and back; biases and normalisation layers stay as they are.

    Complex weights are left out: bfloat16 has no complex form.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...] = (CLEAN, ROUNDED)
    scope: str = UNIVERSAL
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"target": "all"}

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), unit="format", scope=self.scope)

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the model as it is, then rounded."""
        loss, weights = context.loss(self.target), context.moved(self.target)
        rounded = {n: w.detach().to(torch.bfloat16).to(w.dtype) for n, w in weights.items() if not w.is_complex()}
        for variant in self.variants:
            yield Change(variant, CLEAN, partial(overlay, context.model, {}), {TRAINING: loss.value({})})
            run = partial(overlay, context.model, rounded)
            yield Change(variant, ROUNDED, run, {TRAINING: loss.mean(run)})

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target that has no stored form."""
        if entry["target"] != "activations":
            return ""
        return "attack_target: activations are not stored, so bf16 cannot round them. Name weights."

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        return {"methods": self.variants, "target": self.target}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Bf16:
        """Return the threat that a complete entry of a suite describes."""
        return cls(entry["variants"], entry["target"], optional=entry["optional"])


class FormatWords(Words):
    """The words of a change of the number format."""

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what}, rounded to another number format"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "0 as trained, 1 rounded"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model."""
        return f"{variants} takes the place of the number format of {setting.what}"


register(Bf16, {"bf16": Variant("bfloat16")}, {"format": FormatWords()})

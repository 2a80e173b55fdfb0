"""Storing weights in fewer bits: in one of `number_formats`, each a variant. Weights only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from recbole_rawp.core.ball import Weights
from recbole_rawp.threats.number_formats import FORMATS, NOISE, noisy
from recbole_rawp.threats.replacement import Replacement
from recbole_rawp.threats.setting import CLEAN, Setting, Words, target_name
from recbole_rawp.threats.threat import Variant, register

STORED = 1.0  # the only level beside the clean model
TITLES = {"bf16": "bfloat16", "fp16": "float16"}
WITHOUT_GRID = set(TITLES)


@dataclass(frozen=True)
class Quantization(Replacement):
    """Weights of a target in formats of fewer bits, each format a variant."""

    variants: tuple[str, ...]
    target: str | Sequence[str]
    granularity: str = "row"
    levels: tuple[float, ...] = (CLEAN, STORED)
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"target": "all", "granularity": "row"}
    verb: ClassVar[str] = "storing"

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), self.granularity, unit="format", scope=self.scope)

    def replaced(self, variant: str, level: float, weights: Weights, generator: torch.Generator) -> Weights:
        """Return the weights as they are when they are read again."""
        by_row = self.granularity == "row"
        if variant in NOISE:
            return {name: noisy(w, by_row, generator, bits=NOISE[variant]) for name, w in weights.items()}
        return {name: FORMATS[variant](weight, by_row) for name, weight in weights.items()}

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target that has no stored form, or with what shares a grid."""
        if entry["granularity"] not in ("row", "tensor") and not set(entry["variants"]) <= WITHOUT_GRID:
            return (
                f"attack_granularity: {entry['granularity']!r} does not go with {entry['variants'][0]}. Set "
                "attack_granularity=row or tensor."
            )
        return super().check(entry)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        return {"methods": self.variants, "target": self.target, "granularity": self.granularity or "row"}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Quantization:
        """Return the threat that a complete entry of a suite describes."""
        grid = "" if set(entry["variants"]) <= WITHOUT_GRID else entry["granularity"]
        return cls(entry["variants"], entry["target"], grid, optional=entry["optional"])


class FormatWords(Words):
    """The words of a change of the number format."""

    adversary = False

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        grid = {"row": ", a grid for each row", "tensor": ", a grid for each tensor"}.get(setting.granularity, "")
        return f"{setting.what}, stored in another number format{grid}"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "0 as trained, 1 stored"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model."""
        return f"{variants} takes the place of the number format of {setting.what}"

    def variant(self, setting: Setting, title: str) -> str:
        """Return the format, and what shares a grid."""
        alone = title in TITLES.values()
        return f"{title} per tensor" if setting.granularity == "tensor" and not alone else title

    def amount(self, level: float) -> str:
        """Return nothing: a format has no level."""
        return ""


register(
    Quantization,
    {name: Variant(TITLES.get(name, name)) for name in FORMATS}
    | {name: Variant(f"noise as large as int{bits}'s rounding") for name, bits in NOISE.items()},
    {"format": FormatWords()},
)

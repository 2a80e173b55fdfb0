"""Bits of stored weights that flip at random, as in memory at low voltage or damaged files (Stutz et al., MLSys 2021).

Each bit of a weight is hit with probability p, independently of all others: it flips, it is stuck at 0 or at 1, or it
is the first of a burst, `BURST` neighbours that flip together. Weights are stored as float32, as bfloat16,
or as int8 in two's complement on a symmetric grid for each row (`number_formats`), whose steps are stored safely. In
floating point one flip of an exponent bit can make a weight 10^38; the metric is then that of whatever ranking is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recbole_rawp.core.ball import Weights
from recbole_rawp.threats.entries import graded, within, wrong_levels
from recbole_rawp.threats.number_formats import symmetric_grid
from recbole_rawp.threats.replacement import Replacement
from recbole_rawp.threats.setting import Setting, Words, target_name
from recbole_rawp.threats.threat import Variant, register

Flip = Callable[[Tensor], Tensor]  # integers [n] -> the same with other bits


def in_float32(weight: Tensor, flip: Flip) -> Tensor:
    """Return the weight after flips in its float32 form."""
    stored = weight.to(torch.float32).contiguous()
    return flip(stored.view(torch.int32).flatten()).view(torch.float32).reshape(weight.shape).to(weight.dtype)


def in_bf16(weight: Tensor, flip: Flip) -> Tensor:
    """Return the weight after flips in its bfloat16 form."""
    stored = weight.to(torch.bfloat16).contiguous()
    return flip(stored.view(torch.int16).flatten()).view(torch.bfloat16).reshape(weight.shape).to(weight.dtype)


def in_int8(weight: Tensor, flip: Flip) -> Tensor:
    """Return the weight after flips in its int8 form."""
    stored, step = symmetric_grid(weight, by_row=True, bits=8)
    return flip(stored.to(torch.int8).flatten()).reshape(weight.shape).to(weight.dtype) * step


BURST = 8  # bits
STORED = {"float32": in_float32, "bf16": in_bf16, "int8": in_int8}
FAULTS: dict[str, tuple[str, int, Callable[[Tensor, Tensor], Tensor]]] = {  # title, bits hit together, effect
    "bit_errors": ("bit errors", 1, torch.bitwise_xor),
    "bit_bursts": (f"bursts of {BURST} bit errors", BURST, torch.bitwise_xor),
    "stuck_at_0": ("bits stuck at 0", 1, lambda stored, hit: stored & ~hit),
    "stuck_at_1": ("bits stuck at 1", 1, torch.bitwise_or),
}
ERRORS = {f"{fault}_{form}": (fault, form) for fault in FAULTS for form in STORED}


def bits_hit(stored: Tensor, rate: float, random: np.random.Generator, *, burst: int = 1) -> Tensor:
    """Return integers [n] like those stored, in which the bits that are hit are 1.

    Each bit is the first of `burst` neighbours with probability rate / burst, so that about `rate` of all bits are hit;
    the last ones may be cut off.
    """
    width = 8 * stored.element_size()
    bits = stored.numel() * width
    first = random.choice(bits, size=random.binomial(bits, rate / burst), replace=False, shuffle=False)
    places = np.unique(first[:, None] + np.arange(burst))
    entry, bit = (torch.from_numpy(part) for part in divmod(places[places < bits], width))
    mask = torch.zeros(stored.shape, dtype=torch.int64)
    mask.index_add_(0, entry, 1 << bit)  # no bit is there twice: adding is setting
    signed = torch.where(mask >= 1 << (width - 1), mask - (1 << width), mask)  # two's complement of the same bits
    return signed.to(stored.dtype).to(stored.device)


@dataclass(frozen=True)
class BitErrors(Replacement):
    """Random bit errors in the stored form of a target's weights, at several rates, drawn several times."""

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    draws: int = 5
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"target": "all", "rates": (1e-6, 1e-4, 1e-3, 1e-2), "draws": 5}
    verb: ClassVar[str] = "storing with bit errors"
    wild: ClassVar[bool] = True
    grades: ClassVar[str] = "rates"
    untrainable: ClassVar[tuple[str, ...]] = tuple(
        name
        for name, (_, form) in ERRORS.items()
        if form != "int8"  # weights of 1e38 end a training
    ) + tuple(f"{name}_worst" for name in ERRORS)

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), unit="bit error rate", scope=self.scope)

    def replaced(self, variant: str, level: float, weights: Weights, generator: torch.Generator) -> Weights:
        """Return the weights with errors in their bits."""
        random = np.random.default_rng(generator.initial_seed())
        fault, form = ERRORS[variant]
        _, burst, effect = FAULTS[fault]

        def broken(stored: Tensor) -> Tensor:
            """Return what is stored after the errors."""
            return effect(stored, bits_hit(stored, level, random, burst=burst))

        return {name: STORED[form](weight, broken) for name, weight in weights.items()}

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target, with rates, or with the number of draws."""
        draws = entry["draws"]
        if wrong := wrong_levels("rates", entry["rates"], *within(1)):
            return wrong
        if not isinstance(draws, int) or draws < 1:
            return f"attack: draws: {draws!r} is not valid; expected int >= 1."
        if worst := [name for name in entry["variants"] if name.endswith("_worst")]:
            return f"attack: {worst[0]} is measured beside {worst[0].removesuffix('_worst')}. Name that."
        return super().check(entry)

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        return {"methods": self.variants, "target": self.target, "rates": self.levels[1:], "draws": self.draws}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> BitErrors:
        """Return the threat that a complete entry of a suite describes."""
        return cls(
            entry["variants"], entry["target"], graded(entry["rates"]), entry["draws"], optional=entry["optional"]
        )


class BitErrorWords(Words):
    """The words of bit errors."""

    noun, nouns = "rate", "rates"
    adversary = False
    logarithmic = True
    step = 1e-9

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what}, with random errors in the bits that are stored"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "chance of each bit to be hit"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model at a rate."""
        return f"each bit of {setting.what} is hit with a chance of {level:g} ({variants})"


TITLES = {
    name: f"{FAULTS[fault][0]} in {'bfloat16' if form == 'bf16' else form}" for name, (fault, form) in ERRORS.items()
}
register(
    BitErrors,
    {name: Variant(title) for name, title in TITLES.items()}
    | {f"{name}_worst": Variant(f"the worst draw of {title}") for name, title in TITLES.items()},
    {"bit error rate": BitErrorWords()},
)

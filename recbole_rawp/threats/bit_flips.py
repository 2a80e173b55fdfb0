"""Bits of a model stored in int8 that somebody flips on purpose, and as many at random.

Progressive bit search (Rakin, He and Fan, ICCV 2019), along the attacked loss L. Each weight is w = s q: a whole number
q from -128 to 127 on a symmetric grid for each row (`quantization`). With the gradient g of L by w, to first order

    flipping bit b of q raises L by  g s d_b,     d_b = +-2^b,  of the sign bit -+2^7  (+ where b < 7 was 0)

In each tensor the flip with the largest such rise is a candidate. Those with the largest rises are tried, the one after
which L is highest is kept, and the search goes on from there. An entry is flipped once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_rawp.core.ball import Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError
from recbole_rawp.threats.adversarial.search import losses_of
from recbole_rawp.threats.quantization import symmetric_grid
from recbole_rawp.threats.setting import CLEAN, LOSSES, RANKING, UNIVERSAL, WORST, Setting, Words, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register

BITS = 8
TRIED = 5  # candidates whose loss is computed, each in a tensor of its own


class Flip(NamedTuple):
    """One bit of one entry of a tensor, and what it adds to the stored number."""

    name: str
    entry: int
    added: float


@dataclass(frozen=True)
class Stored:
    """A model's weights as they are stored: whole numbers and the step of each row, by name."""

    numbers: Weights
    steps: Weights

    @classmethod
    def of(cls, weights: Weights) -> Stored:
        """Return the int8 form of weights."""
        grids = {n: symmetric_grid(weight.contiguous(), by_row=True, bits=BITS) for n, weight in weights.items()}
        return cls({n: grid[0] for n, grid in grids.items()}, {n: grid[1] for n, grid in grids.items()})

    def values(self) -> Weights:
        """Return the weights as they are read again."""
        return {name: number * self.steps[name] for name, number in self.numbers.items()}

    def after(self, flip: Flip) -> Stored:
        """Return the same after a flip."""
        numbers = self.numbers[flip.name].clone()
        numbers.view(-1)[flip.entry] += flip.added
        return Stored({**self.numbers, flip.name: numbers}, self.steps)


def added(numbers: Tensor, bit: int) -> Tensor:
    """Return what flipping a bit adds to each number in two's complement."""
    is_set = (numbers.to(torch.int64) >> bit) & 1
    weight = 2**bit if bit < BITS - 1 else -(2**bit)
    return ((1 - 2 * is_set) * weight).to(numbers.dtype)


def candidate(name: str, numbers: Tensor, slopes: Tensor) -> tuple[float, Flip]:
    """Return the flip of a tensor with the largest rise to first order, and that rise; `slopes` are g s."""
    found = []
    for bit in range(BITS):
        adds = added(numbers, bit).flatten()
        rise, entry = (slopes.flatten() * adds).nan_to_num(nan=0.0).max(0)
        found.append((float(rise), Flip(name, int(entry), float(adds[entry]))))
    return max(found, key=lambda one: one[0])


@dataclass
class BitSearch:
    """The search for the worst flips along one loss.

    Attributes:
        stored: the weights after all flips so far.
        best, value: the weights at which the loss was highest, and that loss with its smooth form, which tells apart
            what leaves every rank.
        flips: all so far, and `useful`, how many of them led to the best.
    """

    loss: AttackLoss
    stored: Stored
    best: Weights
    value: tuple[float, float]
    flips: list[Flip] = field(default_factory=list)
    useful: int = 0

    @classmethod
    def begin(cls, loss: AttackLoss, weights: Weights) -> BitSearch:
        """Start at the weights in int8."""
        stored = Stored.of(weights)
        values = stored.values()
        return cls(loss, stored, values, loss.means(partial(overlay, loss.model, values)))

    @property
    def over(self) -> bool:
        """Whether nothing is left to take."""
        return self.value[0] >= self.loss.source.lost

    def step(self) -> bool:
        """Flip the worst bit; tell whether there was one that raises the loss to first order."""
        tried = [(self.losses_after(flip), flip) for flip in self.candidates()]
        if not tried:
            return False
        value, flip = max(tried, key=lambda one: known(one[0]))
        self.stored = self.stored.after(flip)
        self.flips.append(flip)
        if known(value) > known(self.value):
            self.best, self.value, self.useful = self.stored.values(), value, len(self.flips)
        return True

    def candidates(self) -> list[Flip]:
        """Return the most promising flip of each of the most promising tensors."""
        shapes, steps = self.loss.shapes, self.stored.steps
        delta = {name: value - shapes[name].detach() for name, value in self.stored.values().items()}
        slopes = {name: (gradient * steps[name]).contiguous() for name, gradient in self.loss.climb(delta)[1].items()}
        for flip in self.flips:
            slopes[flip.name].view(-1)[flip.entry] = 0.0
        found = [candidate(name, self.stored.numbers[name], slope) for name, slope in slopes.items()]
        rising = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
        return [flip for _, flip in rising[:TRIED]]

    def losses_after(self, flip: Flip) -> tuple[float, float]:
        """Return the loss after one more flip, and its smooth form."""
        return self.loss.means(partial(overlay, self.loss.model, self.stored.after(flip).values()))


def known(value: tuple[float, float]) -> tuple[bool, float, float]:
    """Return a loss and its smooth form as they are compared; NaN is the lowest."""
    return value[0] == value[0], *value


def at_random(stored: Stored, count: int, seed: int) -> list[Flip]:
    """Return so many flips of different bits drawn at random, to be made in this order."""
    sizes = np.cumsum([BITS * numbers.numel() for numbers in stored.numbers.values()])
    names, flips = list(stored.numbers), []
    for place in np.random.default_rng(seed).choice(sizes[-1], size=min(count, int(sizes[-1])), replace=False):
        which = int(np.searchsorted(sizes, place, side="right"))
        entry, bit = divmod(int(place) - int(sizes[which - 1] if which else 0), BITS)
        numbers = stored.numbers[names[which]].flatten()[entry]
        flips.append(Flip(names[which], entry, float(added(numbers, bit))))
        stored = stored.after(flips[-1])
    return flips


@dataclass(frozen=True)
class BitFlips(Threat):
    """The worst flips of bits in the int8 form of a target's weights, at several counts; and as many at random.

    Biases and normalisation layers stay as they are. The change counts from the model as trained, so that storing it
    in int8 is part of it.
    """

    variants: tuple[str, ...]
    target: str | Sequence[str]
    levels: tuple[float, ...]
    losses: tuple[str, ...] = (RANKING,)
    optional: bool = False

    DEFAULTS: ClassVar[Mapping[str, Any]] = {"target": "all", "flips": (1, 2, 5, 10, 20, 50), "loss": RANKING}
    scope: str = UNIVERSAL

    @property
    def setting(self) -> Setting:
        """Return what its values share."""
        return Setting(target_name(self.target), unit="bit flips", scope=self.scope)

    def steps(self, variant: str) -> int:
        """Return how many flips are searched for."""
        return int(self.levels[-1]) if variant == "bit_flips" else 1

    def changes(self, context: Context) -> Iterator[Change]:
        """Yield the changes of both variants, loss by loss: the clean model first, then count by count."""
        losses = losses_of(self, partial(context.loss, self.target), context)
        for variant in self.variants:
            if variant == "bit_flips":
                for name, loss in losses.items():
                    yield from self.searched(context, name, loss)
            else:
                yield from self.drawn_at_random(context, losses)

    def searched(self, context: Context, name: str, loss: AttackLoss) -> Iterator[Change]:
        """Yield what the search along a loss leads to; where nothing is left to take, the last again."""
        yield Change("bit_flips", CLEAN, partial(overlay, context.model, {}), {name: loss.value({})}, name)
        search, done = BitSearch.begin(loss, weights_of(loss)), 0
        for count in self.levels[1:]:
            while done < count and not search.over and search.step():
                done += 1
            run = partial(overlay, context.model, search.best)
            yield Change("bit_flips", count, run, {name: search.value[0]}, name)
        hit = ", ".join(f"{n} in {name}" for name, n in Counter(f.name for f in search.flips[: search.useful]).items())
        context.note(f"Bits of {self.setting.what} that a search along the {name} loss flipped: {hit or 'none'}.")

    def drawn_at_random(self, context: Context, losses: Mapping[str, AttackLoss]) -> Iterator[Change]:
        """Yield the model after random flips; those of a smaller count are among those of a larger one."""
        clean = {name: loss.value({}) for name, loss in losses.items()}
        yield Change("bit_flips_random", CLEAN, partial(overlay, context.model, {}), clean)
        stored = Stored.of(weights_of(next(iter(losses.values()))))
        flips = at_random(stored, int(self.levels[-1]), context.seed)
        for before, count in zip(self.levels, self.levels[1:]):
            for flip in flips[int(before) : int(count)]:
                stored = stored.after(flip)
            run = partial(overlay, context.model, stored.values())
            yield Change("bit_flips_random", count, run, {name: loss.mean(run) for name, loss in losses.items()})

    @classmethod
    def check(cls, entry: Mapping[str, Any]) -> str:
        """Return what is wrong with a target that has no stored form, or with the counts."""
        flips = entry["flips"]
        if not isinstance(flips, (list, tuple)) or not flips or not all(type(n) is int and n >= 1 for n in flips):
            return f"attack: flips: {flips!r} is not valid; expected a list of whole numbers >= 1."
        if entry["target"] == "activations":
            return "attack_target: activations are not stored, so no bit of them can be flipped. Name weights."
        return ""

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        loss = WORST if len(self.losses) > 1 else self.losses[0]
        return {"methods": self.variants, "target": self.target, "flips": [*map(int, self.levels[1:])], "loss": loss}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> BitFlips:
        """Return the threat that a complete entry of a suite describes."""
        levels = (CLEAN, *sorted({float(count) for count in entry["flips"]}))
        losses = LOSSES if entry["loss"] == WORST else (entry["loss"],)
        return cls(entry["variants"], entry["target"], levels, losses, optional=entry["optional"])


def weights_of(loss: AttackLoss) -> Weights:
    """Return the weights that have an int8 form: complex ones have none.

    Raises:
        InputError: if there are none.
    """
    found = {name: weight.detach() for name, weight in loss.shapes.items() if not weight.is_complex()}
    if not found:
        raise InputError("attack_target: it names complex weights alone, which have no int8 form. Name others.")
    return found


class BitFlipWords(Words):
    """The words of bit flips."""

    noun, nouns = "number of flipped bits", "numbers of flipped bits"
    control = "as many flips at random"
    step = 1.0

    def title(self, setting: Setting) -> str:
        """Return the setting in words."""
        return f"{setting.what} stored in int8, bits flipped"

    def axis(self, setting: Setting) -> str:
        """Return what the level is."""
        return "of the int8 form"

    def at(self, level: float) -> str:
        """Return a number of flips in words."""
        return f"{level:g} flipped bit{'s' * (level != 1)}"

    def happens(self, setting: Setting, level: float, variants: str) -> str:
        """Return what happens to the model."""
        return f"{variants} flips {level:g} bit{'s' * (level != 1)} of {setting.what} stored in int8"


register(
    BitFlips,
    {
        "bit_flips": Variant("bit search", climbs=True, iterates=True),
        "bit_flips_random": Variant("random flips", control=True),
    },
    {"bit flips": BitFlipWords()},
)

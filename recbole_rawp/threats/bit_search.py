"""Looks for the worst bits of weights that are stored in int8.

Progressive bit search (Rakin, He and Fan, ICCV 2019), along the attacked loss L. Each weight is w = s q: a whole number
q from -128 to 127 on a symmetric grid for each row (`number_formats`). With the gradient g of L by w, to first order

    flipping bit b of q raises L by  g s d_b,     d_b = +-2^b,  of the sign bit -+2^7  (+ where b < 7 was 0)

In each tensor the flip with the largest such rise is a candidate. Those with the largest rises are tried, the one after
which L is highest is kept, and the search goes on from there. An entry is flipped once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recbole_rawp.core.ball import Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.core.overlay import overlay
from recbole_rawp.threats.number_formats import symmetric_grid

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
        return {name: self.value(name) for name in self.numbers}

    def value(self, name: str) -> Tensor:
        """Return one of them."""
        return self.numbers[name] * self.steps[name]

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
        stored, values: the weights after all flips so far, and as they are read.
        best, value: the weights at which the loss was highest, and that loss with its smooth form, which tells apart
            what leaves every rank.
        flips: all so far, and `useful`, how many of them led to the best.
    """

    loss: AttackLoss
    stored: Stored
    values: Weights
    best: Weights
    value: tuple[float, float]
    flips: list[Flip] = field(default_factory=list)
    useful: int = 0

    @classmethod
    def begin(cls, loss: AttackLoss, weights: Weights) -> BitSearch:
        """Start at the weights in int8."""
        stored = Stored.of(weights)
        values = stored.values()
        return cls(loss, stored, values, values, loss.means(partial(overlay, loss.model, values)))

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
        self.stored, self.values = self.stored.after(flip), self.values_after(flip)
        self.flips.append(flip)
        if known(value) > known(self.value):
            self.best, self.value, self.useful = self.values, value, len(self.flips)
        return True

    def candidates(self) -> list[Flip]:
        """Return the most promising flip of each of the most promising tensors."""
        shapes, steps = self.loss.shapes, self.stored.steps
        delta = {name: value - shapes[name].detach() for name, value in self.values.items()}
        slopes = {name: (gradient * steps[name]).contiguous() for name, gradient in self.loss.climb(delta)[1].items()}
        for flip in self.flips:
            slopes[flip.name].view(-1)[flip.entry] = 0.0
        found = [candidate(name, self.stored.numbers[name], slope) for name, slope in slopes.items()]
        rising = sorted((one for one in found if one[0] > 0), key=lambda one: -one[0])
        return [flip for _, flip in rising[:TRIED]]

    def losses_after(self, flip: Flip) -> tuple[float, float]:
        """Return the loss after one more flip, and its smooth form."""
        return self.loss.means(partial(overlay, self.loss.model, self.values_after(flip)))

    def values_after(self, flip: Flip) -> Weights:
        """Return the weights after one more flip; the other tensors are the same objects."""
        return {**self.values, flip.name: self.stored.after(flip).value(flip.name)}


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

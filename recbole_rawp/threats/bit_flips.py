"""Bits of a model stored in int8 that somebody flips on purpose (`bit_search`), and as many at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from recbole_rawp.core.ball import Weights
from recbole_rawp.core.losses.attack_loss import AttackLoss
from recbole_rawp.core.overlay import overlay
from recbole_rawp.errors import InputError
from recbole_rawp.threats.adversarial.search import losses_of
from recbole_rawp.threats.bit_search import BitSearch, Stored, at_random
from recbole_rawp.threats.entries import graded, loss_word, losses_named, wrong_levels
from recbole_rawp.threats.setting import CLEAN, RANKING, UNIVERSAL, Setting, Words, target_name
from recbole_rawp.threats.threat import Change, Context, Threat, Variant, register


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
        if wrong := wrong_levels("flips", flips, lambda n: type(n) is int and n >= 1, "whole numbers >= 1"):
            return wrong
        if entry["target"] == "activations":
            return "attack_target: activations are not stored, so no bit of them can be flipped. Name weights."
        return ""

    def entry(self) -> dict[str, Any]:
        """Return the entry of a suite that describes the threat."""
        loss = loss_word(self.losses)
        return {"methods": self.variants, "target": self.target, "flips": [*map(int, self.levels[1:])], "loss": loss}

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> BitFlips:
        """Return the threat that a complete entry of a suite describes."""
        levels, losses = graded(entry["flips"]), losses_named(entry["loss"])
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

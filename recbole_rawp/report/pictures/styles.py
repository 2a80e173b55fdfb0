"""Gives each model a colour and a marker, and each variant of a threat a dash."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

from recbole_rawp.report.scores import BEFORE, bare, is_control

# Colour-blind-safe (Okabe and Ito), told apart in grey by marker; attacks by dash.
STYLES = {
    "none": ("#D55E00", "o"),
    "noise": ("#56B4E9", "^"),
    "apr": ("#E69F00", "X"),
    "rat": ("#000000", "P"),
    "awp": ("#009E73", "D"),
    "sam": ("#8C8C8C", "p"),
    "asam": ("#6B3A00", "d"),
    "rawp": ("#0072B2", "s"),
    "rawp_ft": ("#CC79A7", "v"),
    "rawp_reference": ("#005080", "<"),
    "rawp_ft_reference": ("#8A3A6B", ">"),
}
SPARE = (("#000000", "P"), ("#E69F00", "X"), ("#0072B2", "<"), ("#009E73", ">"), ("#D55E00", "h"), ("#56B4E9", "*"))
DASHES: dict[str, Any] = {
    "fgsm": "-",
    "bim": "--",
    "pgd": "-.",
    "mim": (0, (5, 1, 1, 1, 1, 1)),
}
SPARE_DASHES = ("-", "--", (0, (8, 2)), (0, (4, 1, 1, 1)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (2, 2)))
LOSSES = {"training": "--", "ranking": "-"}  # of variants that are told apart by the loss that they climb
GREY = "#555555"
DOTS = ":"  # of controls

Styles = dict[str, tuple[str, str]]


def dashed(variants: Iterable[str]) -> dict[str, Any]:
    """Return the dash of each variant: its own, that of the loss that tells it apart, or one that is left."""
    spare, found = cycle(SPARE_DASHES), dict[str, Any]()
    for variant in variants:
        name, _, loss = variant.partition(" ")
        found[variant] = DOTS if is_control(variant) else LOSSES.get(loss) or DASHES.get(name) or next(spare)
    return found


def styled(names: Iterable[str]) -> Styles:
    """Return colour and marker of each model: those of its defense, unless another model with that defense has them."""
    names = list(names)
    owned = [STYLES[bare(name)] for name in names if bare(name) in STYLES]
    colours = {colour for colour, _ in owned}
    free = [style for style in dict.fromkeys((*SPARE[:2], *STYLES.values(), *SPARE[2:])) if style not in owned]
    spare = cycle(sorted(free, key=lambda style: style[0] in colours))  # colours of their own first
    found: Styles = {}
    for name in sorted(names, key=lambda name: name.endswith(BEFORE)):  # the repaired model keeps the colour
        own = STYLES.get(bare(name))
        found[name] = own if own and own not in found.values() else next(spare)
    return {name: found[name] for name in names}

"""What is the one sentence?  How much is kept at which radius, against noise; and whether to trust it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from recbole_rawp.evaluation.checks import FAILED, Check
from recbole_rawp.report.curves import (
    NOISE,
    attack_title,
    chance,
    curves,
    gradient_attacks,
    label,
    over_seeds,
    percent,
    settings_of,
    shares,
    strongest,
    telling_radius,
    tried,
)

GAIN = 1.02  # a share from which on the attack did not hit the ranking at all
FEW = 4  # models that one sentence can hold


def verdict(frame: pd.DataFrame, metric: str, *, bigger: bool, checks: Sequence[Check] = ()) -> str:
    """Say in one sentence what the strongest attack of the first setting leaves where the models differ most.

    One model alone: mid-curve. A self-check that failed comes first.
    """
    return distrust(checks) + sentence(frame, metric, bigger=bigger)


def sentence(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the verdict without self-checks."""
    wide = curves(frame, metric)
    kept = over_seeds(shares(wide, bigger=bigger, metric=metric))
    worst = strongest(tried(kept, frame, metric))
    radius = telling_radius(worst)
    if max(worst.columns) == 0:
        return "No attack was measured: attack_radii holds only 0."
    attacks = gradient_attacks(kept)
    if radius is None or not all((name, attack) in kept.index for name in worst.index for attack in attacks):
        return f"No attack was tried on all of the {len(worst)} models at one radius: nothing compares."
    clean = wide[0.0].groupby(level="defense", sort=False).mean()
    noise = {name: kept.loc[(name, NOISE), radius] for name, attack in kept.index if attack == NOISE}
    above = f", counted from {chance(metric)}" * (chance(metric) > 0)
    parts = [
        f"**{label(name)}** keeps {percent(worst.loc[name, radius])} of its {metric.upper()} of "
        f"{clean[name]:.4f}{above}"
        + (f" (noise of the same norm leaves {percent(noise[name])})" if name in noise else "")
        for name in spoken(worst[radius])
    ]
    ends = f"the least and the most robust of {len(worst)} models: " * (len(parts) < len(worst))
    chosen = " Of the radii tried the models differ most at this one." * (len(worst) > 1)
    moves = settings_of(frame)[0].moves(radius)
    said = f"When {attackers(attacks)} {moves}, {ends}{'; '.join(parts)}."
    return said + chosen + gain(worst[radius])


def gain(worst: pd.Series) -> str:
    """Return the warning that a score which rose under attack is no robustness; nothing if none did."""
    if not (worst > GAIN).any():
        return ""
    return " A share above 100% is no robustness: the attack raised its loss, and not the errors of the ranking."


def spoken(worst: pd.Series) -> list[str]:
    """Return the models that the verdict names: all, or of many the least and the most robust."""
    if len(worst) <= FEW:
        return list(worst.index)
    ranked = worst.sort_values(kind="stable", na_position="first")
    return [ranked.index[0], ranked.index[-1]]


def attackers(attacks: Sequence[str]) -> str:
    """Return the attacks of which the verdict takes the strongest."""
    titles = [attack_title(attack) for attack in attacks]
    if len(titles) == 1:
        return titles[0]
    return f"the {'worse' if len(titles) == 2 else 'worst'} of {', '.join(titles[:-1])} and {titles[-1]}"


def distrust(checks: Sequence[Check]) -> str:
    """Return the warning of self-checks that failed, to stand before the verdict; nothing if none did."""
    failed = [f"{label(check.defense)}: {check.name}" for check in checks if check.status == FAILED]
    if not failed:
        return ""
    counted = f"{len(failed)} self-check{'s' * (len(failed) > 1)} failed"
    return f"**Do not trust these numbers: {counted}** ({'; '.join(dict.fromkeys(failed))}). "

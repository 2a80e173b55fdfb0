"""Says in one sentence how much is kept at which level, against noise, and whether to trust it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from recbole_rawp.evaluation.records import FAILED, Check, chance
from recbole_rawp.evaluation.self_checks import BUDGET
from recbole_rawp.report.bearing import bearing
from recbole_rawp.report.scores import (
    by_threat,
    common_variants,
    control_of,
    counted,
    label,
    missed,
    percent,
    settings_of,
    shares_kept,
    telling_level,
    variant_title,
)
from recbole_rawp.threats.setting import CLEAN, Setting

FEW = 4  # models that one sentence can hold


def verdict(frame: pd.DataFrame, metric: str, *, bigger: bool, checks: Sequence[Check] = ()) -> str:
    """Say in one sentence what the strongest variant of the first setting leaves where the models differ most.

    One model alone: mid-curve. A self-check that failed comes first.
    """
    return distrust(checks) + sentence(frame, metric, bigger=bigger)


def sentence(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Return the verdict without self-checks."""
    if not settings_of(frame)[0].words.adversary:
        return " ".join(bearing(frame, metric, bigger=bigger))
    wide = by_threat(frame, metric)
    kept, worst = shares_kept(frame, metric, bigger=bigger)
    level = telling_level(worst)
    if list(worst.columns) == [CLEAN]:
        return "No attack was measured: attack_radii holds only 0."
    variants = common_variants(kept)
    if level is None or not all((name, variant) in kept.index for name in worst.index for variant in variants):
        noun = settings_of(frame)[0].words.noun
        return f"No attack was tried on all of the {len(worst)} models at one {noun}: nothing compares."
    setting = settings_of(frame)[0]
    parts = [
        kept_by(n, wide, worst[level], metric) + left_by_control(n, kept, level, setting) for n in spoken(worst[level])
    ]
    ends = f"the least and the most robust of {len(worst)} models: " * (len(parts) < len(worst))
    chosen = f" At this one, of the {setting.words.nouns} tried, the models differ most." * (len(worst) > 1)
    said = f"When {setting.words.happens(setting, level, attackers(counted(kept)))}, {ends}{'; '.join(parts)}."
    return f"{said}{chosen} {missed(worst[level])}".strip()


def kept_by(name: str, wide: pd.DataFrame, worst: pd.Series, metric: str) -> str:
    """Return what one model keeps of its score."""
    clean = wide.loc[name][CLEAN].mean()
    above = f", counted from {chance(metric)}" * (chance(metric) > 0)
    return f"**{label(name)}** keeps {percent(worst[name])} of its {metric.upper()} of {clean:.4f}{above}"


def left_by_control(name: str, kept: pd.DataFrame, level: float, setting: Setting) -> str:
    """Return what an innocent change of the same size leaves, in brackets; nothing where none was tried."""
    control = control_of(kept, name)
    if control is None:
        return ""
    return f" ({setting.words.control} leaves {percent(kept.loc[(name, control), level])})"


def spoken(worst: pd.Series) -> list[str]:
    """Return the models that the verdict names: all, or of many the least and the most robust."""
    if len(worst) <= FEW:
        return list(worst.index)
    ranked = worst.sort_values(kind="stable", na_position="first")
    return [ranked.index[0], ranked.index[-1]]


def attackers(variants: Sequence[str]) -> str:
    """Return the variants of which the verdict takes the strongest."""
    titles = [variant_title(variant) for variant in variants]
    if len(titles) == 1:
        return titles[0]
    return f"the {'worse' if len(titles) == 2 else 'worst'} of {', '.join(titles[:-1])} and {titles[-1]}"


def distrust(checks: Sequence[Check]) -> str:
    """Return the warning of self-checks that failed, to stand before the verdict; nothing if none did."""
    failed = [f"{label(c.defense)}: {c.name}" for c in checks if c.status == FAILED and c.name != BUDGET]
    if not failed:
        return ""
    counted = f"{len(failed)} self-check{'s' * (len(failed) > 1)} failed"
    return f"**Do not trust these numbers: {counted}** ({'; '.join(dict.fromkeys(failed))}). "

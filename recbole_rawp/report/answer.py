"""Answers what a run was for: is the model fragile, from where on, what did hardening buy and cost, what comes next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recbole_rawp.evaluation.records import FAILED, HALF
from recbole_rawp.evaluation.self_checks import BUDGET, PLAIN_KEPT, UNDERTRAINED
from recbole_rawp.evaluation.statistics import interval
from recbole_rawp.evaluation.users import Users
from recbole_rawp.report.bearing import bearing
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import (
    BEFORE,
    bare,
    by_threat,
    complete,
    control_of,
    is_control,
    label,
    missed,
    named,
    own_least_kept,
    percent,
    settings_of,
    shares_kept,
    within,
)
from recbole_rawp.threats.setting import CLEAN, PER_USER, UNIVERSAL

WHOLE = 0.995  # rounds to all of it
HOPELESS = "Next: train it for longer, or look at its settings."
BOUGHT = 0.02  # share of the score: less than that more is nothing bought


def answer(run: Run, trainer: Any = None) -> list[str]:
    """Return the answer of a run with one model on one data set, a line each, Markdown; nothing for any other.

    It is of the first setting. `trainer` is the hardened one, if the run trained.
    """
    frame, metric, bigger = complete(run.frame), run.metric, run.bigger
    if any(frame[name].nunique() > 1 for name in ("model", "dataset", "seed")):
        return []
    wide = by_threat(frame, metric)
    kept, _ = shares_kept(frame, metric, bigger=bigger)
    worst = own_least_kept(frame, metric, bigger=bigger)
    sought = settings_of(frame)[0].words.adversary
    hopeless, levels = worst[CLEAN].isna(), [level for level in worst if level != CLEAN]
    worst = worst[[level for level in levels if not sought or not np.isinf(worst[level]).any()]].fillna(0.0)
    if worst.empty:
        return []
    lines = [
        hopelessness(name, metric) if hopeless[name] else fragility(name, worst.loc[name], kept, frame, metric)
        for name in worst.index
        if sought
    ]
    lines += [words] if sought and (words := missed(worst)) else []
    lines += bearing(frame, metric, bigger=bigger)
    last, hardened = worst.index[-1], final(worst.index)
    plain = next((name for name in worst.index if bare(name) == "none"), "")
    for name in hardened if plain else ():
        whose = f" by **{label(name)}**" * (len(hardened) > 1)
        compared = sought and not hopeless[plain] and not hopeless[name]
        gained = f"; {bought(worst.loc[plain], worst.loc[name])}" if compared else ""
        lines.append(f"Hardening{whose} {cost(run, plain, name, wide)}{gained}.")
    after = HOPELESS if hopeless[last] else following(worst.loc[last], last, sought=sought)
    return [*lines, *repaired(trainer), *failed(run), after]


def final(names: Sequence[str]) -> list[str]:
    """Return the hardened models as they are in the end, not as they were before their repair."""
    return [name for name in names if bare(name) != "none" and BEFORE not in name]


def hopelessness(name: str, metric: str) -> str:
    """Say that a model has nothing to lose."""
    return f"**{label(name)}** ranks no better than chance by {metric.upper()}, so there is nothing to lose."


def fragility(name: str, worst: pd.Series, kept: pd.DataFrame, frame: pd.DataFrame, metric: str) -> str:
    """Say from which level on the strongest attack leaves less than half, or that none does, and what noise leaves."""
    setting, score = settings_of(frame)[0], metric.upper()
    every = list(kept.loc[name].index)
    variants = [variant for variant in every if not is_control(variant)] or every
    levels = list(worst.index)
    first = next((level for level in levels if worst[level] < HALF), None)
    level = levels[-1] if first is None else first
    control = control_of(kept, name)
    noise = f"; {setting.words.control} leaves {percent(kept.loc[(name, control), level])}" if control else ""
    strongest = f"the worst of {', '.join(variants)}" if len(variants) > 1 else variants[0]
    under = f"under {strongest}"
    if first is None:
        least = "all" if worst.min() >= WHOLE else f"{percent(worst.min())} or more"
        calm = f"**{label(name)}** is not fragile up to {setting.at(level)}: it keeps {least}"
        return f"{calm} of its {score} {under}{noise}."
    before = [f" ({percent(worst[lower])} at {lower:g})" for lower in levels if lower < level][-1:]
    share = f"**{label(name)}** is fragile from {setting.at(level)} on: there it keeps {percent(worst[level])}"
    return f"{share} of its {score} {under}{''.join(before)}{noise}."


def cost(run: Run, plain: str, last: str, wide: pd.DataFrame) -> str:
    """Say what share of the clean score hardening cost, with its interval over users where there are such values."""
    before, after = (float(wide.loc[name][CLEAN].mean()) for name in (plain, last))
    if before == 0:
        return f"leaves a clean {run.metric.upper()} of {after:.4f}, where the plain model has 0"
    share = (before - after) / before if run.bigger else (after - before) / before
    sign, does, what = (1, "costs", "cost") if share > 0 else (-1, "gains", "gain")
    among = " among sampled candidates" * (settings_of(run.frame)[0].scope == PER_USER)
    words = f"{does} {abs(share):.1%} of the clean {run.metric.upper()}{among} ({before:.4f} to {after:.4f}"
    if (bounds := cost_interval(run, plain, last, before)) is None:
        return f"{words}; no interval, for it is no mean over users)"
    low, high = sorted(sign * bound for bound in bounds)
    return f"{words}; 95% interval of the {what} over users {low:.1%} to {high:.1%})"


def cost_interval(run: Run, plain: str, last: str, before: float) -> tuple[float, float] | None:
    """Return the bounds of the cost, a share of the plain model's score, by bootstrap over users; None without them."""
    setting = settings_of(run.frame)[0]
    users: Users | None = run.users.get(setting.scope or UNIVERSAL)
    if users is None or run.metric not in users.metrics:
        return None
    conditions = within(named(pd.DataFrame(users.conditions), like=run.frame), setting)
    clean = conditions[conditions["level"] == CLEAN].drop_duplicates("defense").reset_index().set_index("defense")
    if not {plain, last} <= set(clean.index):
        return None
    values = users.values[:, users.metrics.index(run.metric)]
    lost = values[clean.loc[plain, "index"]] - values[clean.loc[last, "index"]]
    low, high = (float(bound[0]) / before for bound in interval((lost if run.bigger else -lost)[None]))
    return (low, high) if math.isfinite(low + high) else None


def bought(plain: pd.Series, last: pd.Series) -> str:
    """Say where hardening helps most, or that it does not, and where it harms most."""
    more = last - plain
    level = more.idxmin()
    harm = f", and **loses: {percent(last[level])} instead of {percent(plain[level])} at {level:g}**"
    harm *= more[level] <= -BOUGHT
    if plain.min() >= 1 - BOUGHT:
        return f"the plain model was not fragile at these levels, so there was nothing to buy{harm}"
    if more.max() < BOUGHT:
        return f"**it buys nothing at these levels**{harm}"
    level = more.idxmax()
    return f"it keeps {percent(last[level])} instead of {percent(plain[level])} at {level:g}{harm}"


def repaired(trainer: Any) -> Iterator[str]:
    """Yield what stage 2 came to, where there was one."""
    progress = None if trainer is None else trainer.state.progress
    if progress is not None:
        changed = progress.changed()
        yield "Stage 2 repaired the least robust module." if changed else "Stage 2 found nothing to repair: alpha 0."
        if unused := [f"`{row.module}`" for row in progress.ranking if row.round == 0 and row.unused]:
            yield f"**The model does without {', '.join(unused)}**: no small change there moves loss or ranking."


def failed(run: Run) -> Iterator[str]:
    """Yield what checks found of the training: too little of it, or a budget that was not kept."""
    broken = {check.name: check.detail for check in run.checks if check.status == FAILED}
    if BUDGET in broken:
        what = PLAIN_KEPT if PLAIN_KEPT in broken[BUDGET] else "this is the least harmful model"
        yield f"**Hardening did not keep the clean budget** (rawp_clean_budget): {what}."
    if UNDERTRAINED in broken:
        yield "**The model ranks no better than popularity**: train it for longer before you ask whether it is robust."


def following(last: pd.Series, name: str, *, sought: bool = True) -> str:
    """Return what to type next."""
    if not sought:
        return "Next: `recbole-rawp attack CHECKPOINT` asks what the worst change of that size does."
    if bare(name) == "none":
        if last.min() < HALF:
            return "Next: `recbole-rawp harden CHECKPOINT` hardens it."
        return "Next: `recbole-rawp attack CHECKPOINT --attack=standard` tries other weights and attacks per user."
    return "Next: `recbole-rawp attack CHECKPOINT --attack=strongest` tries harder."

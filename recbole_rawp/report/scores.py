"""Arranges records for comparison: scores over levels within a setting, shares kept, names of models."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd

from recbole_rawp.evaluation.records import LOSS, chance
from recbole_rawp.threats.setting import CLEAN, SETTING, Setting
from recbole_rawp.threats.threat import VARIANTS

BEFORE, AFTER = " before repair", " repaired"
LABELS = {"none": "plain"}
GAIN = 1.02  # a share from which on the attack did not hit the ranking at all
COMPLETE = "complete"  # in the attributes of a frame of records


def complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records with every field of a setting as text.

    Variants of one name are told apart by the loss that they climb, `apgd ranking`, and by their steps, `bim-10`, where
    there are several. Done once: the rows of a frame that is complete are complete, too, and its attributes say so.
    """
    if frame.attrs.get(COMPLETE):
        return frame
    loss = frame["loss"].fillna("").astype(str) if "loss" in frame else pd.Series("", index=frame.index)
    frame = frame.assign(**{name: frame[name].fillna("").astype(str) for name in SETTING}, loss=loss)
    frame.attrs[COMPLETE] = True
    if frame["threat"].str.contains(" ").any():  # they are told apart already
        return frame
    measured = frame[frame["loss"] != ""]
    measured = measured[measured["metric"] != LOSS] if "metric" in frame else measured
    losses = measured.groupby([*SETTING, "threat"])["loss"].nunique().rename("losses")
    several = frame.join(losses, on=[*SETTING, "threat"])["losses"].gt(1) & (frame["loss"] != "")
    steps = frame.groupby([*SETTING, "threat"])["steps"].transform("nunique") > 1
    numbered = frame["threat"].where(~steps, frame["threat"] + "-" + frame["steps"].astype(str))
    return frame.assign(threat=numbered.where(~several, numbered + " " + frame["loss"]))


def settings_of(frame: pd.DataFrame) -> list[Setting]:
    """Return the settings of some records, in order of appearance; the first is the headline."""
    return [Setting(*values) for values in complete(frame)[list(SETTING)].drop_duplicates().itertuples(index=False)]


def within(frame: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """Return the records of one setting."""
    frame = complete(frame)
    rows = pd.Series(True, index=frame.index)
    for name in SETTING:
        rows &= frame[name] == getattr(setting, name)
    return frame[rows]


def named(frame: pd.DataFrame, like: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return rows with models told apart by `defense`, as far as the records `like` (default: these rows) need it.

    A repaired model is told from what it was before its repair, then models and data sets where there are several.
    """
    like = frame if like is None else like
    stages = like.groupby(["model", "dataset", "defense"])["stage"].nunique()
    both = pd.MultiIndex.from_frame(frame[["model", "dataset", "defense"]]).map(stages.to_dict()).to_numpy() == 2
    several = [name for name in ("model", "dataset") if like[name].nunique() > 1]
    name = frame["defense"] + both * frame["stage"].map({1: BEFORE, 2: AFTER}).fillna("")
    if several:
        name = frame[several].agg(" on ".join, axis=1) + ": " + name
    return frame.assign(defense=name)


def bare(name: str) -> str:
    """Return the defense alone: without what tells models, folders and stages apart."""
    return re.sub(r"( \[.*\])?(" + f"{BEFORE}|{AFTER}" + ")?$", "", name.rpartition(": ")[2])


def renamed(name: str, defense: str) -> str:
    """Return the name of a model with another defense in it."""
    where, colon, rest = name.rpartition(": ")
    return where + colon + defense + rest.removeprefix(bare(name))


def label(name: str) -> str:
    """Return the name of a model as the report prints it."""
    return renamed(name, LABELS.get(bare(name), bare(name)))


def variant_title(name: str) -> str:
    """Return the name of a variant in sentences and legends."""
    variant, _, loss = name.partition(" ")
    title = VARIANTS[variant].title if variant in VARIANTS else variant
    return f"{title} on the {loss} loss" if loss else title


def is_control(name: str) -> bool:
    """Tell whether a variant is an innocent change of the same size, such as noise."""
    variant = name.partition(" ")[0]
    return variant in VARIANTS and VARIANTS[variant].control


def is_carried(name: str) -> bool:
    """Tell whether a variant is found on another model, which not every model has."""
    variant = name.partition(" ")[0]
    return variant in VARIANTS and VARIANTS[variant].carried


def by_threat(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the values of `metric` in the first setting: a row per (defense, threat, seed), a column per level.

    Rows are in order of appearance. A level that was not measured is NaN, as is a score of NaN.
    """
    return by_level(series(frame, metric))


def by_level(values: pd.Series) -> pd.DataFrame:
    """Return the values with a column per level, ascending; rows keep their order.

    Sorted by pandas and put back: its unstack(sort=False) mixes rows up where some lack a level.
    """
    return values.unstack("level").reindex(values.index.droplevel("level").unique())


def series(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Return the values of `metric` in the first setting, by (defense, threat, seed, level).

    Where one seed's score is NaN those of all are: the mean over seeds is, and not that of the seeds that are left.
    """
    rows = named(within(frame, settings_of(frame)[0]))
    found = rows[rows["metric"] == metric].set_index(["defense", "threat", "seed", "level"])["value"]
    found = found[~found.index.duplicated(keep="last")]
    return found.where(found.notna().groupby(level=["defense", "threat", "level"]).transform("all"))


def shares(wide: pd.DataFrame, *, bigger: bool, metric: str = "") -> pd.DataFrame:
    """Return the share of the clean value kept, at each level.

    It is value / clean; clean / value where less is better; (value - 0.5) / (clean - 0.5) for AUC, of which a random
    ranking has 0.5. It is NaN where it means nothing: nothing to lose, or scores of NaN.
    """
    if not bigger:
        return (1 / wide.div(wide[CLEAN], axis=0)).where(wide > 0)
    above = wide - chance(metric)
    return above.div(above[CLEAN], axis=0).where(above[CLEAN] > 0)


def meaning(metric: str, *, bigger: bool) -> str:
    """Say what the share kept is."""
    name = metric.upper()
    if not bigger:
        return f"Share kept: clean {name} / attacked {name}, because less of it is better."
    if chance(metric):
        return f"Share kept: (attacked {name} - {chance(metric)}) / (clean {name} - {chance(metric)}); 0% is chance."
    return f"Share kept: attacked {name} / clean {name}."


def missed(worst: pd.Series | pd.DataFrame) -> str:
    """Return the warning that a score which rose under attack is no robustness; nothing if none did."""
    words = "A share above 100% is no robustness: the attack raised its loss, and not the errors of the ranking."
    return words if (worst > GAIN).to_numpy().any() else ""


def percent(share: float) -> str:
    """Return a share in percent; one that has no meaning (a clean value of 0, scores of NaN) as n/a."""
    return "n/a" if pd.isna(share) else f"{share:.0%}"


def shares_kept(frame: pd.DataFrame, metric: str, *, bigger: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the mean share that each variant leaves in the first setting, and `least_kept`, to compare models by."""
    seeds = shares_of_seeds(frame, metric, bigger=bigger)
    kept = mean_of_tried(seeds, ["defense", "threat"])
    return kept.mask(kept == math.inf), least_kept(seeds)


def own_least_kept(frame: pd.DataFrame, metric: str, *, bigger: bool) -> pd.DataFrame:
    """Return what is left of each model in the first setting, as `least_kept`, under all that this model met."""
    models = shares_of_seeds(frame, metric, bigger=bigger).groupby(level="defense", sort=False)
    return pd.concat([least_kept(own) for _, own in models])


def shares_of_tried(frame: pd.DataFrame, metric: str, *, bigger: bool) -> pd.DataFrame:
    """Return the mean share that each variant leaves in the first setting; infinity where it was not tried."""
    return mean_of_tried(shares_of_seeds(frame, metric, bigger=bigger), ["defense", "threat"])


def shares_of_seeds(frame: pd.DataFrame, metric: str, *, bigger: bool) -> pd.DataFrame:
    """Return each seed's shares in the first setting; infinity where a threat was not tried, which no minimum takes."""
    found = shares(by_threat(frame, metric), bigger=bigger, metric=metric)
    measured = by_level(series(frame, metric).map(lambda _: True)).notna()
    return found.where(measured.reindex(found.index)[found.columns], math.inf)


def least_kept(seeds: pd.DataFrame) -> pd.DataFrame:
    """Return what the strongest variant that all models met leaves of each at each level, mean over seeds.

    The strongest of each seed: its mean is no more than that of any one variant. A variant that is carried over from a
    twin counts for the models that have one. NaN counts most; infinity, where none was tried, least.
    """
    each = seeds[seeds.index.isin(counted(seeds), level="threat")].groupby(level=["defense", "seed"], sort=False)
    return mean_of_tried(each.agg(lambda column: column.min(skipna=False)), "defense")


def mean_of_tried(seeds: pd.DataFrame, level: str | list[str]) -> pd.DataFrame:
    """Return the means over the seeds in which something was tried; NaN in one of them makes NaN, none infinity."""
    untried = seeds == math.inf
    found = seeds.mask(untried).groupby(level=level, sort=False).mean()
    found = found.mask(seeds.isna().groupby(level=level, sort=False).any())
    return found.mask(untried.groupby(level=level, sort=False).all(), math.inf)


def counted(kept: pd.DataFrame) -> list[str]:
    """Return the variants that `least_kept` takes: those that all models met, and those carried over from a twin."""
    return list(dict.fromkeys([*common_variants(kept), *filter(is_carried, kept.index.unique("threat"))]))


def common_variants(kept: pd.DataFrame) -> list[str]:
    """Return the variants other than controls, those alone that all models met if there are any; else the controls."""
    every = list(kept.index.unique("threat"))
    names = [name for name in every if not is_control(name)] or every
    models = kept.index.unique("defense")
    there = set(zip(kept.index.get_level_values("defense"), kept.index.get_level_values("threat")))
    return [name for name in names if all((model, name) in there for model in models)] or names


def control_of(kept: pd.DataFrame, defense: str) -> str | None:
    """Return the control that a model met; None if it met none."""
    return next((name for model, name in kept.index if model == defense and is_control(name)), None)


def telling_level(worst: pd.DataFrame) -> float | None:
    """Return the level where the models differ most (one model: mid-curve); None if none was tried on all."""
    levels = [level for level in worst.columns if level != CLEAN and not np.isinf(worst[level]).any()]
    if len(worst) < 2 or not levels:
        return levels[(len(levels) - 1) // 2] if levels else None
    columns = worst[levels]
    spread = (columns.max() - columns.min()).where(np.isfinite(columns).all(), 0.0)
    return float(spread.idxmax())


def over_seeds(wide: pd.DataFrame) -> pd.DataFrame:
    """Return the means over seeds, a row per (defense, threat)."""
    return wide.groupby(level=["defense", "threat"], sort=False).mean()


def known_means(seeds: pd.DataFrame, level: int | list[str]) -> pd.DataFrame:
    """Return the means over the rows that are alike in `level` of the index; NaN in one of them makes NaN."""
    groups = seeds.notna().groupby(level=level, sort=False).all()
    return seeds.groupby(level=level, sort=False).mean().where(groups)


def models_on_data(frame: pd.DataFrame) -> str:
    """Return which models on which data sets, for titles."""
    return " on ".join(", ".join(map(str, frame[name].unique())) for name in ("model", "dataset"))

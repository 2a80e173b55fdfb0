"""The parts of the report on what was measured: picture, table and users of each setting."""

from __future__ import annotations

from typing import Any

import pandas as pd

from recbole_rawp.report.pictures import curves
from recbole_rawp.report.scores import (
    complete,
    is_control,
    label,
    meaning,
    named,
    settings_of,
    variant_title,
    within,
)
from recbole_rawp.report.sections import per_user
from recbole_rawp.report.sections.section import Material, section
from recbole_rawp.report.tables import overview, table
from recbole_rawp.threats.setting import Setting

OVERVIEW = "The strongest attack of each kind, at the levels that were measured; each kind has a part of its own below."
HEADLINE = "robustness"  # the picture of the first setting; others add the setting's name


@section(10)
def findings(material: Material) -> list[str]:
    """Return the parts of the report on what was measured: picture, table and users of each setting."""
    frame, users = material.frame, list(material.run.users.values())
    metric, bigger = material.run.metric, material.run.bigger
    parts: list[str] = []
    for number, setting in enumerate(settings_of(frame)):
        rows, picture, noun = within(frame, setting), f"{stem(setting, number)}.png", setting.words.noun
        curves.save_curves(rows, metric, material.folder, stem(setting, number), bigger=bigger)
        heading = f"## {metric.upper()} on test data, and the share of the clean value kept"
        image = f"![{metric.upper()} and the share of it kept, against the {noun}: {setting.title}]({picture})"
        opening = (
            [image, heading, f"Attacked: {setting.title}."]
            if number == 0
            else [f"## {setting.title[:1].upper()}{setting.title[1:]}", image]
        )
        parts += [*opening, table(rows, metric, bigger=bigger), f"{noun.capitalize()}: {setting.axis}."]
        if number == 0:
            parts.append(key(rows, metric, bigger=bigger))
            if table_of_all := fragility(frame, metric, bigger=bigger):
                parts += ["### To what is it fragile?", table_of_all, OVERVIEW]
        parts += per_user.sections(users, frame, setting, metric, bigger=bigger, slices=number == 0)
    return parts


def fragility(records: Any, metric: str, *, bigger: bool) -> str:
    """Return the overview of all settings of the records; nothing where there is one alone."""
    frame = complete(pd.DataFrame(records))
    frame = frame[frame["metric"] == metric]
    sought = [setting for setting in settings_of(frame) if setting.words.adversary]
    frame = pd.concat([within(frame, setting) for setting in sought] or [frame[:0]])
    return overview(frame, metric, bigger=bigger) if len(settings_of(frame)) > 1 else ""


def key(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Explain the table's attacks and shares."""
    attacks = "; ".join(f"`{name}`: {variant_title(name)}" for name in frame["threat"].unique())
    controls = ", ".join(f"`{name}`" for name in frame["threat"].unique() if is_control(name))
    noise = f" The control is {controls}: an attack must beat it." * bool(controls)
    seeds = named(frame).groupby("defense", sort=False)["seed"].nunique()
    number = str(seeds.max())
    if seeds.nunique() > 1:  # a seed in which nothing was repaired has no model before repair
        number = ", ".join(f"{count} ({label(str(name))})" for name, count in seeds.items())
    spread = f" Means over {number} seeds; the bands of the picture reach from the lowest to the highest."
    spread *= int(seeds.max() > 1)
    files = "All metrics, unrounded: `records.csv`, `records.json`; for LaTeX: `table.tex`."
    return f"{attacks}.{noise} {meaning(metric, bigger=bigger)}{spread} {files}"


def stem(setting: Setting, number: int) -> str:
    """Return the name of a setting's picture, without ending."""
    return HEADLINE if number == 0 else f"{HEADLINE}-{setting.name}"

"""What did we find?  Records -> CSV, JSON, Markdown, HTML, LaTeX and pictures, in one folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.checks import Check
from recbole_rawp.evaluation.robustness import Record
from recbole_rawp.evaluation.users import Users
from recbole_rawp.files import write_text
from recbole_rawp.report import html_page, pictures, run_files
from recbole_rawp.report.curves import (
    LOSS,
    NOISE,
    attack_title,
    complete,
    label,
    meaning,
    named,
    places,
    settings_of,
    within,
)
from recbole_rawp.report.sections import per_user
from recbole_rawp.report.tables import check_table, latex, overview, table
from recbole_rawp.report.verdict import verdict
from recbole_rawp.report.wording import Setting

OVERVIEW = "The strongest attack of each kind, at the radii that were measured; each kind has a part of its own below."
HEADLINE = "robustness"  # the picture of the first setting; others add the setting's name
STEPS = 10_000  # TensorBoard's steps are whole numbers: the radius in units of 1 / STEPS


def write(
    folder: Path,
    records: list[Record],
    checks: list[Check],
    *,
    metric: str,
    bigger: bool,
    settings: dict[str, Any],
    environment: str,
    sections: Sequence[str] = (),
    again: str = "train",
    users: Mapping[str, Users] | None = None,
    notes: Sequence[str] = (),
    command: str | None = None,
) -> str:
    """Write the report and what it rests on into `folder`; return the table that it opens with.

    report.md and report.html say the same. For papers: robustness*.png, robustness*.svg, table.tex. For programs:
    records.csv, records.json, users.npz, checks.json, report.json.

    Args:
        metric: the headline metric, as RecBole names it in results (`ndcg@10`).
        bigger: whether more of it is better (`valid_metric_bigger`).
        settings, environment: printed at the end of the report.
        sections: further parts of the report, Markdown, after the tables; the pictures they name lie in `folder`.
        again: the command that repeats the run with settings.yaml.
        users: what happened to each user, by scope.
        notes: what the reader must know, such as what was skipped and why.
        command: the whole command that repeats the report, where settings.yaml does not.
    """
    raw = pd.DataFrame(records, columns=run_files.COLUMNS)
    facts = {"metric": metric, "bigger": bigger, "settings": settings, "notes": list(notes), "environment": environment}
    run_files.save(folder, run_files.Run(folder.name, raw, checks, users or {}, facts))
    frame = complete(raw[raw["metric"] == metric])
    for number, setting in enumerate(settings_of(frame)):
        pictures.save(within(frame, setting), metric, folder, stem(setting, number), bigger=bigger)
    write_text(folder / "table.tex", latex(frame, metric, bigger=bigger))
    title = f"{places(frame)} under attack"
    parts = [
        f"# {title}",
        verdict(frame, metric, bigger=bigger, checks=checks),
        *findings(frame, metric, list((users or {}).values()), bigger=bigger),
        *sections,
        *foundations(checks, notes, settings, environment, command or again_command(again)),
    ]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    write_text(folder / "report.html", html_page.render(title, parts, folder))
    return table(frame, metric, bigger=bigger)


def findings(frame: pd.DataFrame, metric: str, users: Sequence[Users], *, bigger: bool) -> list[str]:
    """Return the parts of the report on what was measured: picture, table and users of each setting."""
    parts: list[str] = []
    for number, setting in enumerate(settings_of(frame)):
        rows, picture = within(frame, setting), f"{stem(setting, number)}.png"
        heading = f"## {metric.upper()} on test data, and the share of the clean value kept"
        image = f"![{metric.upper()} and the share of it kept, against the radius: {setting.title}]({picture})"
        opening = (
            [image, heading, f"Attacked: {setting.title}."]
            if number == 0
            else [f"## {setting.title[:1].upper()}{setting.title[1:]}", image]
        )
        parts += [*opening, table(rows, metric, bigger=bigger), f"Radius: {setting.radius}."]
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
    return overview(frame, metric, bigger=bigger) if len(settings_of(frame)) > 1 else ""


def key(frame: pd.DataFrame, metric: str, *, bigger: bool) -> str:
    """Explain the table's attacks and shares."""
    attacks = "; ".join(f"`{name}`: {attack_title(name)}" for name in frame["attack"].unique())
    noise = " Noise is the control: an attack must beat it." * (NOISE in set(frame["attack"]))
    seeds = named(frame).groupby("defense", sort=False)["seed"].nunique()
    number = str(seeds.max())
    if seeds.nunique() > 1:  # a seed in which nothing was repaired has no model before repair
        number = ", ".join(f"{count} ({label(str(name))})" for name, count in seeds.items())
    spread = f" Means over {number} seeds; the bands of the picture reach from the lowest to the highest."
    spread *= int(seeds.max() > 1)
    files = "All metrics, unrounded: `records.csv`, `records.json`; for LaTeX: `table.tex`."
    return f"{attacks}.{noise} {meaning(metric, bigger=bigger)}{spread} {files}"


def foundations(
    checks: list[Check], notes: Sequence[str], settings: Mapping[str, Any], environment: str, command: str
) -> list[str]:
    """Return the parts of the report on why it can be trusted and how it is repeated."""
    return [
        "## Self-checks",
        check_table(checks),
        *(["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## Settings",
        "```yaml\n" + "\n".join(f"{k}: {'null' if v is None else v}" for k, v in settings.items()) + "\n```",
        f"Repeat with: {command}.",
        "## Environment",
        f"```\n{environment}\n```",
    ]


def again_command(again: str) -> str:
    """Return the command that repeats a run from its folder."""
    return f"`recbole-rawp {again} --config_files=settings.yaml`, with `settings.yaml` beside this file"


def stem(setting: Setting, number: int) -> str:
    """Return the name of a setting's picture, without ending."""
    return HEADLINE if number == 0 else f"{HEADLINE}-{setting.name}"


def write_merged(home: Path, together: run_files.Run, folders: Sequence[str]) -> dict[str, Any]:
    """Write the report on merged runs of `folders` into `home`; return as `combine`."""
    facts = dict(together.facts)
    records = together.frame.to_dict("records")
    notes = [f"This report puts together: {', '.join(f'`{folder}`' for folder in folders)}.", *facts.pop("notes")]
    command = f"`{shlex.join(['recbole-rawp', 'report', *folders])}`"
    text = write(home, records, together.checks, users=together.users, notes=notes, command=command, **facts)
    words = verdict(together.frame, facts["metric"], bigger=facts["bigger"], checks=together.checks)
    result = {"records": records, "checks": together.checks, "table": text, "verdict": words}
    return result | {"output_dir": str(home)}


def tensorboard(writer: Any, records: Sequence[Record]) -> None:
    """Add the curves to TensorBoard: `attack/SETTING/ATTACK/METRIC`, and `/MODEL` where there are several.

    The step is the radius in units of 0.0001, because steps are whole numbers: 1000 is radius 0.1.
    """
    if not records:
        return
    rows = named(complete(pd.DataFrame(list(records))))
    rows = rows[rows["metric"] != LOSS]
    several = rows["defense"].nunique() > 1
    for setting in settings_of(rows):
        for row in within(rows, setting).to_dict("records"):
            model = "/" + label(row["defense"]).replace(" ", "_") if several else ""
            tag = f"attack/{setting.name}/{row['attack']}/{row['metric']}{model}"
            writer.add_scalar(tag, row["value"], round(row["radius"] * STEPS))

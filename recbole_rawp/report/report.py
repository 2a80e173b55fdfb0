"""Writes what was found: records -> CSV, JSON, Markdown, HTML, LaTeX and pictures, in one folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.records import LOSS, Record
from recbole_rawp.files import write_text
from recbole_rawp.report import answer as answers
from recbole_rawp.report import html_page, run_files, sections
from recbole_rawp.report.run_files import Run
from recbole_rawp.report.scores import complete, label, models_on_data, named, settings_of, within
from recbole_rawp.report.tables import coded, inert, latex, listed, table
from recbole_rawp.report.verdict import distrust, verdict


def write(folder: Path, run: Run, *, command: str, answer: Sequence[str] = (), trainer: Any = None) -> str:
    """Write the report and what it rests on into `folder`; return the table that it opens with.

    report.md and report.html say the same. For papers: robustness*.png, robustness*.svg, table.tex. For programs:
    records.csv, records.json, users.npz, checks.json, report.json.

    Args:
        run: what was measured.
        command: what repeats the report, Markdown.
        answer: the lines of `answer.answer`; where there are none, a verdict in one sentence stands for them.
        trainer: the hardened trainer, if the report is on one run.
    """
    metric, bigger = run.metric, run.bigger
    run_files.write_run(folder, run)
    frame = complete(run.frame[run.frame["metric"] == metric])
    write_text(folder / "table.tex", latex(frame, metric, bigger=bigger))
    title = f"{models_on_data(frame)} under attack"
    opening = [f"# {inert(title)}"]
    if answer:
        opening += [inert(doubts)] if (doubts := distrust(run.checks)) else []
        opening.append(listed(answer))
    else:
        opening.append(inert(verdict(frame, metric, bigger=bigger, checks=run.checks)))
    parts = [*opening, *sections.parts(sections.Material(folder, run, frame, trainer, command))]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    write_text(folder / "report.html", html_page.render(title, parts, folder))
    return table(frame, metric, bigger=bigger)


def again_command(again: str) -> str:
    """Return the command that repeats a run from its folder."""
    return f"{coded(f'recbole-rawp {again} --config_files=settings.yaml')}, with `settings.yaml` beside this file"


def write_merged(home: Path, together: Run, folders: Sequence[str]) -> dict[str, Any]:
    """Write the report on merged runs of `folders` into `home`; return as `jobs.report.combine`."""
    notes = [f"This report puts together: {', '.join(map(coded, folders))}.", *together.facts["notes"]]
    run = replace(together, facts=together.facts | {"notes": notes})
    command = coded(shlex.join(["recbole-rawp", "report", *folders]))
    text = write(home, run, command=command, answer=answers.answer(run))
    words = verdict(run.frame, run.metric, bigger=run.bigger, checks=run.checks)
    records = [Record(**row) for row in run.frame.to_dict("records")]
    return {"records": records, "checks": run.checks, "table": text, "verdict": words, "output_dir": str(home)}


def tensorboard(writer: Any, records: Sequence[Record]) -> None:
    """Add the curves to TensorBoard: `attack/SETTING/VARIANT/METRIC`, and `/MODEL` where there are several.

    Steps are whole numbers: the level in units of the threat's `Words.step`, so that 1000 is radius 0.1.
    """
    if not records:
        return
    rows = named(complete(pd.DataFrame(list(records))))
    rows = rows[rows["metric"] != LOSS]
    several = rows["defense"].nunique() > 1
    for setting in settings_of(rows):
        for row in within(rows, setting).to_dict("records"):
            model = "/" + label(row["defense"]).replace(" ", "_") if several else ""
            tag = f"attack/{setting.name}/{row['threat']}/{row['metric']}{model}"
            writer.add_scalar(tag, row["value"], round(row["level"] / setting.words.step))

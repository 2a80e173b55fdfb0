"""Writes the report of a comparison: its rows -> tables, tests, pictures and one page, in its folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp.evaluation.statistics import RESAMPLES
from recbole_rawp.files import whole, write_text
from recbole_rawp.report import html_page, report, run_files
from recbole_rawp.report.comparison import paired_tests, pareto
from recbole_rawp.report.comparison.merging import merge
from recbole_rawp.report.comparison.tables import ModelOnData, cells, latex, numbers, points, test_table
from recbole_rawp.report.scores import label, meaning, missed, percent
from recbole_rawp.report.tables import coded, fenced, inert, listed, markdown

FEW = 10  # seeds below which an interval over them is rough
FINISHED, FAILED = "finished", "failed"


def write(home: Path, rows: list[dict[str, Any]], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Write the report of a comparison into its folder `home`, from the rows of its runs and their folders.

    report.md, report.html, table.tex; comparison.csv (means, deviations, intervals) and tests.csv, unrounded; and in
    reports/MODEL-DATASET the curves of all runs side by side, with the picture of clean against robust scores.

    Returns:
        `rows`, `table` (Markdown), `verdict`, `failed` (name -> reason) and `output_dir`.
    """
    frame = pd.DataFrame(rows)
    done = frame[frame["status"] == FINISHED]
    found = done.groupby(["model", "dataset"], sort=False)
    groups = [ModelOnData(model, dataset, rows_of) for (model, dataset), rows_of in found]
    failed = {row["folder"]: row["reason"] for row in rows if row["status"] == FAILED}
    tests = paired_tests.tests(done, home) if groups else pd.DataFrame()
    for group in groups:
        write_place(group, home)
    tables = {group.title: markdown(*cells(group)) for group in groups}
    if groups:
        whole(home / "comparison.csv", lambda path: pd.concat(map(numbers, groups)).to_csv(path, index=False))
        whole(home / "tests.csv", lambda path: tests.to_csv(path, index=False))
        write_text(home / "table.tex", latex(groups))
    words = " ".join(sentence(group) for group in groups) or "No run is finished."
    title = "Defenses compared: " + (", ".join(group.title for group in groups) or "nothing yet")
    parts = [
        f"# {inert(title)}",
        inert(f"{distrust(done)}{words} {caution(groups)}"),
        *(part for group in groups for part in section(group, tables[group.title], tests)),
        *foundations(frame, failed, notes, home),
    ]
    write_text(home / "report.md", "\n\n".join(parts) + "\n")
    write_text(home / "report.html", html_page.render(title, parts, home))
    table = "\n\n".join(f"{name}\n\n{table}" for name, table in tables.items())
    return {"rows": rows, "table": table, "verdict": words, "failed": failed, "output_dir": str(home)}


def write_place(group: ModelOnData, home: Path) -> None:
    """Write the curves of all runs side by side, and the picture of clean against robust scores."""
    folder = home / group.folder
    folder.mkdir(parents=True, exist_ok=True)
    own = [str(home / name) for name in group.rows["folder"]]
    report.write_merged(folder, merge(run_files.read_runs(own)), own)
    if group.telling is not None:
        axis, metric = group.rows["axis"].iloc[0], group.metric
        y = f"{metric} under the strongest attack, {group.noun} {group.telling:g}\n({axis})"
        title = f"{group.title}: what robustness costs\n{group.rows['attacked'].iloc[0]}"
        pareto.save_pareto(points(group), folder, title=title, x=f"clean {metric}", y=y, bigger=group.bigger)


def sentence(group: ModelOnData) -> str:
    """Return what was found in one sentence: who is on the front, and what each of these keeps."""
    if group.telling is None:
        return f"{group.title}: no attack was measured."
    kept = group.kept[group.telling]
    front = pareto.on_front(points(group), bigger=group.bigger)
    if not front:
        return f"{group.title}: no defense has both a clean {group.metric} and one under attack, for scores are NaN."
    column = f"robust@{group.telling:g}"
    parts = [
        f"**{label(name)}** (clean {group.of(name)['clean'].mean():.4f}, attacked {group.of(name)[column].mean():.4f}, "
        f"{percent(kept[name])} kept)"
        for name in front
    ]
    count = len(group.defenses)
    beaten = f"of {count} defenses no other is better in both scores than " * (count > 1)
    return (
        f"{group.title}, {group.metric} on test data, strongest attack at {group.noun} {group.telling:g}: "
        f"{beaten}{', '.join(parts)}. {meaning(group.metric, bigger=group.bigger)} {missed(kept)}".strip()
    )


def caution(groups: Sequence[ModelOnData]) -> str:
    """Return what few seeds, or other ones for other defenses, mean for the reader."""
    seeds = min((len(group.of(name)) for group in groups for name in group.defenses), default=FEW)
    words = uneven(groups)
    if seeds == 1:
        words += "One seed: nothing here says what another seed would give; a difference may be the seed's alone."
    elif seeds < FEW:
        words += (
            f"{seeds} seeds: few. An interval over them is rough, and a difference smaller than the deviations beside "
            "it may be the seeds' alone, whatever its p-value over users."
        )
    return words.strip()


def uneven(groups: Sequence[ModelOnData]) -> str:
    """Return the warning that some means are over fewer seeds than others beside them; nothing if none are."""
    short = [
        f"{label(name)} ({group.title}) {len(group.of(name))} of {group.rows['seed'].nunique()}"
        for group in groups
        for name in group.defenses
        if len(group.of(name)) < group.rows["seed"].nunique()
    ]
    listed = ", ".join(short)
    return f"Means over other seeds do not compare: runs are missing, finished are {listed}. " * bool(short)


def distrust(done: pd.DataFrame) -> str:
    """Return the warning of self-checks that failed, to stand before all else; nothing if none did."""
    broken = done[done["checks_failed"] > 0] if "checks_failed" in done else done
    if not len(broken):
        return ""
    listed = "; ".join(f"{row['folder']}: {row['broken']}" for row in broken.to_dict("records"))
    return (
        f"**Do not trust these numbers: self-checks failed in {len(broken)} run{'s' * (len(broken) > 1)}** ({listed}). "
    )


def section(group: ModelOnData, table: str, tests: pd.DataFrame) -> list[str]:
    """Return the parts of the report on one model and data set."""
    rows = group.rows
    parts = [f"## {group.title}", table, key(group)]
    if group.telling is not None:
        image = f"![Clean against robust {group.metric}, {group.title}]({group.link}/pareto.png)"
        what = (
            "Large points: means; small ones: seeds. Right and up is better"
            if group.bigger
            else "Left and down is better"
        )
        parts += [image, f"{what}; beyond the stairs no defense reached."]
    parts.append(f"![{group.metric} against the {group.noun}, {group.title}]({group.link}/robustness.png)")
    parts.append(f"All attacks and users: [{group.folder}/report.md]({group.link}/report.md).")
    own = tests[(tests["model"] == group.model) & (tests["dataset"] == group.dataset)]
    shown = own[(own["level"] == 0) | (own["level"].map("{:g}".format) == f"{group.telling or 0:g}")]
    if len(shown):
        parts += [f"### Which differences count? ({group.title})", test_table(shown), test_key(own, len(tests))]
    elif rows["defense"].nunique() > 1:
        parts.append(f"{group.metric} is no mean over users, or plain and rawp_ft are missing: no tests over users.")
    return parts


def key(group: ModelOnData) -> str:
    """Explain the table."""
    return (
        f"Means ± standard deviations over seeds, brackets: 95 % interval of the mean (Student's t). Attacked: "
        f"{group.rows['attacked'].iloc[0]}, at each {group.noun} by the attack that is the strongest on each "
        f"run. {group.noun.capitalize()}: {group.rows['axis'].iloc[0]}. Noise: the control, a random change of the "
        "same size. Time: of training, as a multiple of plain's with the same seed. Each seed's values: `runs.csv`; "
        "unrounded means, deviations and intervals: `comparison.csv`; for LaTeX: `table.tex`."
    )


def test_key(tests: pd.DataFrame, count: int) -> str:
    """Explain the table of differences."""
    seeds = " or ".join(map(str, sorted(tests["seeds"].unique())))
    return (
        f"Second - first over the same {tests['users'].iloc[0]} users, each user's mean over {seeds} seeds. Brackets: "
        f"95 % interval of a paired bootstrap over users ({RESAMPLES} resamples). p: Wilcoxon's signed-rank test, "
        f"two-sided, corrected (Holm) for all {count} rows of `tests.csv`, which has every radius: the one shown is "
        "where the defenses differ most. It speaks of users of these trained models, not of other seeds."
    )


def foundations(frame: pd.DataFrame, failed: dict[str, str], notes: Sequence[str], home: Path) -> list[str]:
    """Return the parts of the report on what ran, what failed, and how it is repeated."""
    done = int((frame["status"] == FINISHED).sum())
    lost = listed([f"FAILED {name}: {reason}" for name, reason in failed.items()])
    again = shlex.join(["recbole-rawp", "compare", f"--resume={home}"])
    return [
        "## Runs",
        f"{done} of {len(frame)} runs finished. Each has a folder of its own here, with settings, model and report. "
        "Whatever training chooses it chooses on validation data. Test data are only reported: the radius of picture "
        "and table of differences, where the defenses differ most on them, is for the eye, too.",
        *([lost, f"{coded(again)} tries again what failed, and keeps the rest."] if failed else []),
        *(["## Notes", listed(notes)] if notes else []),
        "## What was asked for",
        fenced((home / "comparison.yaml").read_text(encoding="utf-8").strip(), "yaml"),
        "## Environment",
        fenced((home / "environment.txt").read_text(encoding="utf-8").strip()),
    ]

"""What does a comparison say?  Its rows -> tables, tests, pictures and one page, in its folder."""

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
from recbole_rawp.report.comparison.tables import Place, cells, latex, numbers, points, test_table
from recbole_rawp.report.curves import label, meaning, percent
from recbole_rawp.report.tables import markdown
from recbole_rawp.report.verdict import gain

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
    groups = done.groupby(["model", "dataset"], sort=False)
    places = [Place(model, dataset, group) for (model, dataset), group in groups]
    failed = {row["folder"]: row["reason"] for row in rows if row["status"] == FAILED}
    tests = paired_tests.tests(done, home) if places else pd.DataFrame()
    for place in places:
        write_place(place, home)
    tables = {place.title: markdown(*cells(place)) for place in places}
    if places:
        whole(home / "comparison.csv", lambda path: pd.concat(map(numbers, places)).to_csv(path, index=False))
        whole(home / "tests.csv", lambda path: tests.to_csv(path, index=False))
        write_text(home / "table.tex", latex(places))
    words = " ".join(sentence(place) for place in places) or "No run is finished."
    title = "Defenses compared: " + (", ".join(place.title for place in places) or "nothing yet")
    parts = [
        f"# {title}",
        f"{distrust(done)}{words} {caution(places)}".strip(),
        *(part for place in places for part in section(place, tables[place.title], tests)),
        *foundations(frame, failed, notes, home),
    ]
    write_text(home / "report.md", "\n\n".join(parts) + "\n")
    write_text(home / "report.html", html_page.render(title, parts, home))
    table = "\n\n".join(f"{name}\n\n{table}" for name, table in tables.items())
    return {"rows": rows, "table": table, "verdict": words, "failed": failed, "output_dir": str(home)}


def write_place(place: Place, home: Path) -> None:
    """Write the curves of all runs side by side, and the picture of clean against robust scores."""
    folder = home / place.folder
    folder.mkdir(parents=True, exist_ok=True)
    own = [str(home / name) for name in place.rows["folder"]]
    report.write_merged(folder, merge(run_files.load_all(own)), own)
    if place.telling is not None:
        setting, metric = place.rows["moved"].iloc[0], place.metric
        y = f"{metric} under the strongest attack, radius {place.telling:g}\n({setting})"
        title = f"{place.title}: what robustness costs\n{place.rows['attacked'].iloc[0]}"
        pareto.save(points(place), folder, title=title, x=f"clean {metric}", y=y, bigger=place.bigger)


def sentence(place: Place) -> str:
    """Return what was found in one sentence: who is on the front, and what each of these keeps."""
    if place.telling is None:
        return f"{place.title}: no attack was measured."
    kept = place.kept[place.telling]
    front = pareto.on_front(points(place), bigger=place.bigger)
    if not front:
        return f"{place.title}: no defense has both a clean {place.metric} and one under attack, for scores are NaN."
    column = f"robust@{place.telling:g}"
    parts = [
        f"**{label(name)}** (clean {place.of(name)['clean'].mean():.4f}, attacked {place.of(name)[column].mean():.4f}, "
        f"{percent(kept[name])} kept)"
        for name in front
    ]
    count = len(place.defenses)
    beaten = f"of {count} defenses none is as good in both scores, and better in one, as " * (count > 1)
    return (
        f"{place.title}, {place.metric} on test data, strongest attack at radius {place.telling:g}: "
        f"{beaten}{', '.join(parts)}. {meaning(place.metric, bigger=place.bigger)}{gain(kept)}"
    )


def caution(places: Sequence[Place]) -> str:
    """Return what few seeds, or other ones for other defenses, mean for the reader."""
    seeds = min((len(place.of(name)) for place in places for name in place.defenses), default=FEW)
    words = uneven(places)
    if seeds == 1:
        words += "One seed: nothing here says what another seed would give; a difference may be the seed's alone."
    elif seeds < FEW:
        words += (
            f"{seeds} seeds: few. An interval over them is rough, and a difference smaller than the deviations beside "
            "it may be the seeds' alone, whatever its p-value over users."
        )
    return words.strip()


def uneven(places: Sequence[Place]) -> str:
    """Return the warning that some means are over fewer seeds than others beside them; nothing if none are."""
    short = [
        f"{label(name)} ({place.title}) {len(place.of(name))} of {place.rows['seed'].nunique()}"
        for place in places
        for name in place.defenses
        if len(place.of(name)) < place.rows["seed"].nunique()
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


def section(place: Place, table: str, tests: pd.DataFrame) -> list[str]:
    """Return the parts of the report on one model and data set."""
    rows = place.rows
    parts = [f"## {place.title}", table, key(place)]
    if place.telling is not None:
        image = f"![Clean against robust {place.metric}, {place.title}]({place.link}/pareto.png)"
        what = (
            "Large points: means; small ones: seeds. Right and up is better"
            if place.bigger
            else "Left and down is better"
        )
        parts += [image, f"{what}; beyond the stairs no defense reached."]
    parts.append(f"![{place.metric} against the radius, {place.title}]({place.link}/robustness.png)")
    parts.append(f"All attacks and users: [{place.folder}/report.md]({place.link}/report.md).")
    own = tests[(tests["model"] == place.model) & (tests["dataset"] == place.dataset)]
    shown = own[(own["radius"] == 0) | (own["radius"].map("{:g}".format) == f"{place.telling or 0:g}")]
    if len(shown):
        parts += [f"### Which differences count? ({place.title})", test_table(shown), test_key(own, len(tests))]
    elif rows["defense"].nunique() > 1:
        parts.append(f"{place.metric} is no mean over users, or plain and rawp_ft are missing: no tests over users.")
    return parts


def key(place: Place) -> str:
    """Explain the table."""
    return (
        f"Means ± standard deviations over seeds, brackets: 95 % interval of the mean (Student's t). Attacked: "
        f"{place.rows['attacked'].iloc[0]}, at each radius by the attack that is the strongest on each run. Radius: "
        f"{place.rows['moved'].iloc[0]}. Noise: of the same norm, the control. Time: of training, as a multiple of "
        "plain's with the same seed. Each seed's values: `runs.csv`; unrounded means, deviations and intervals: "
        "`comparison.csv`; for LaTeX: `table.tex`."
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
    lost = "\n".join(f"- FAILED {name}: {reason}" for name, reason in failed.items())
    again = shlex.join(["recbole-rawp", "compare", f"--resume={home}"])
    return [
        "## Runs",
        f"{done} of {len(frame)} runs finished. Each has a folder of its own here, with settings, model and report. "
        "Whatever training chooses it chooses on validation data. Test data are only reported: the radius of picture "
        "and table of differences, where the defenses differ most on them, is for the eye, too.",
        *([lost, f"`{again}` tries again what failed, and keeps the rest."] if failed else []),
        *(["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## What was asked for",
        f"```yaml\n{(home / 'comparison.yaml').read_text(encoding='utf-8').strip()}\n```",
        "## Environment",
        f"```\n{(home / 'environment.txt').read_text(encoding='utf-8').strip()}\n```",
    ]

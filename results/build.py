"""Runs the declared experiments, and makes their pages say what the records say.

    python results/build.py run NAME [RUN...] [--KEY=VALUE...]    # what is not finished, into runs/NAME
    python results/build.py page NAME                             # NAME.csv, NAME.md and the pictures
    python results/build.py check                                 # status 1 if a page is not what its CSV gives

`experiments/NAME.yaml` declares the runs, each a comparison (`recbole-rawp compare`), the tables and the pictures.
`run` goes on where it was killed. `page` puts the records of finished runs into the CSV, in the place of those of the
same model, data set, defense and seed; where there are none it takes the CSV as it is. On the page it writes what
stands between `<!-- table: NAME -->`, `<!-- commands: NAME -->` or `<!-- provenance: NAME -->` and the next
`<!-- end -->`. `--rawp_output_dir` names another folder than runs/NAME.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import pandas as pd

from recbole_rawp import files
from recbole_rawp.config import command_line
from recbole_rawp.errors import InputError
from recbole_rawp.report.pictures import canvas
from results.declared import Experiment, load
from results.figures import draw
from results.tables import read, render

IDENTITY = ("model", "dataset", "defense", "seed")
OTHERS = "Of all other records:"  # in the provenance, before what the page said


def run(experiment: Experiment, folder: Path, names: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Do the comparisons of these names, or all, what is finished aside; return the runs that failed.

    Raises:
        InputError: for a name that is none, and whatever `compare` refuses.
    """
    from recbole_rawp.jobs.comparison.compare import compare  # imports torch and RecBole

    if unknown := [name for name in names if name not in experiment.runs]:
        raise InputError(f"run: '{unknown[0]}' is none of {', '.join(experiment.runs)}. Name one, or none for all.")
    failed: list[str] = []
    for name in names or experiment.runs:
        own = experiment.runs[name]
        grid = (own.models, own.datasets, own.defenses, own.seeds, own.config_files)
        result = compare(*grid, {**own.options, **options}, folder=str(folder / name))
        failed += [f"{name}: {run}: {reason}" for run, reason in result["failed"].items()]
    return failed


def collect(experiment: Experiment, folder: Path) -> bool:
    """Put the records of finished runs into the CSV; tell whether records of other runs are left in it."""
    found = [frame for name, own in experiment.runs.items() for frame in own.records(folder / name)]
    if not found:
        return True
    new = pd.concat(found, ignore_index=True)
    old = read(experiment.csv) if experiment.csv.exists() else new
    ours = [column for own in experiment.runs.values() for column in own.columns]
    keys = [key for key in dict.fromkeys([*IDENTITY, *ours]) if key in old]
    again = pd.MultiIndex.from_frame(old[keys]).isin(pd.MultiIndex.from_frame(new[keys]))
    records = pd.concat([old[~again], new], ignore_index=True)
    files.whole(experiment.csv, lambda path: records.to_csv(path, index=False))
    for figure in experiment.figures:
        canvas.write(draw(figure, read(experiment.csv)), experiment.home / figure.name, "png")
    return not again.all()


def blocks(experiment: Experiment) -> dict[str, str]:
    """Return what belongs between the page's markers, by marker: tables and commands."""
    frame = read(experiment.csv)
    found = {f"table: {table.name}": render(table, frame) for table in experiment.tables}
    words = [own.command(f"runs/{experiment.name}/{name}") for name, own in experiment.runs.items()]
    lines = ["```bash", *words, f"python results/build.py page {experiment.name}", "```"]
    return found | {f"commands: {experiment.name}": "\n".join(lines)}


def provenance(folder: Path) -> str:
    """Return where finished runs came from: versions, commit, machine, days, names; a line for each such place."""
    runs = defaultdict(list)
    for file in sorted(folder.glob("*/*/environment.txt")):
        if file.with_name("records.csv").exists():
            lines = dict.fromkeys(filter(None, file.read_text(encoding="utf-8").splitlines()))  # once, where it went on
            runs["; ".join(line for line in lines if not line.startswith(("command:", "continued:")))].append(file)
    return "\n".join(f"- {place}; {days(own)}: {', '.join(f.parent.name for f in own)}" for place, own in runs.items())


def earlier(said: str, again: str) -> str:
    """Return the lines that a page had on records, without the runs that `again` names, and without `OTHERS`."""
    done, lines = set(re.split(r"[:,\s]\s*", again)), []
    for line in said.replace(OTHERS, "").strip().splitlines():
        place, colon, names = line.rpartition(": ") if line.startswith("- recbole_rawp ") else ("", "", line)
        left = ", ".join(name for name in names.split(", ") if not colon or name not in done)
        lines += [place + colon + left] if left or not colon else []
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def days(own: Sequence[Path]) -> str:
    """Return the first and the last day on which one of the runs ended."""
    ends = [datetime.fromtimestamp(file.with_name("records.csv").stat().st_mtime, timezone.utc) for file in own]
    return " to ".join(dict.fromkeys(f"{end:%Y-%m-%d}" for end in (min(ends), max(ends))))


def between(page: str, marker: str) -> tuple[int, int]:
    """Return where, on a page, the text below a marker begins and ends.

    Raises:
        InputError: for a page without it.
    """
    place = re.search(rf"<!-- {re.escape(marker)} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    if place is None:
        raise InputError(f"page: no '<!-- {marker} -->' with an '<!-- end -->' below it. Put them where it belongs.")
    return place.span(1)


def fill(page: str, found: Mapping[str, str]) -> str:
    """Return the page with each text below its marker."""
    for marker, text in found.items():
        start, end = between(page, marker)
        page = f"{page[:start]}\n{text}\n\n{page[end:]}"
    return page


def build(experiment: Experiment, folder: Path) -> None:
    """Write the page and, where there are runs, the CSV and the pictures."""
    others = collect(experiment, folder)
    page, found = experiment.page.read_text(encoding="utf-8"), blocks(experiment)
    if places := provenance(folder):
        marker = f"provenance: {experiment.name}"
        start, end = between(page, marker)
        before = earlier(page[start:end], places)
        found[marker] = f"{places}\n\n{OTHERS}\n\n{before}" if others and before else places
    files.write_text(experiment.page, fill(page, found))


def stale(folder: Path) -> list[str]:
    """Return the experiments of a folder whose page is not what the CSV gives."""
    pages = [(one, one.page.read_text(encoding="utf-8")) for one in map(load, sorted(folder.glob("*.yaml")))]
    return [one.name for one, page in pages if fill(page, blocks(one)) != page]


def main(words: Sequence[str]) -> int:
    """Do what the command line says; return the exit status."""
    options, rest = command_line.read(words)
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("run", "page", "check"))
    parser.add_argument("experiment", nargs="?", default="")
    parser.add_argument("runs", nargs="*", help="those of the experiment that `run` does; all")
    asked = parser.parse_args(rest)
    folder = Path(options.pop("rawp_output_dir", Path("runs", asked.experiment)))
    problems: list[str] = []
    if asked.command == "check":
        problems = [f"{name}: its page is not what its CSV gives" for name in stale(HERE / "experiments")]
    elif asked.command == "run":
        problems = run(load(HERE / "experiments" / f"{asked.experiment}.yaml"), folder, asked.runs, options)
    else:
        build(load(HERE / "experiments" / f"{asked.experiment}.yaml"), folder)
    for line in problems:
        print(line)
    return int(bool(problems))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"build.py: {error}", file=sys.stderr)
        sys.exit(2)

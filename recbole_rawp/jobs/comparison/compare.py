"""Compares defenses over models, data sets and seeds: a grid of runs that goes on after a kill."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_rawp import files
from recbole_rawp.config import command_line
from recbole_rawp.config.command_line import GRID
from recbole_rawp.config.properties import name_of
from recbole_rawp.config.yaml_files import is_yaml, read_mapping
from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.jobs import output_folder, train
from recbole_rawp.jobs.checkpoints import settings_in
from recbole_rawp.jobs.comparison import feasibility, grid, unchanged
from recbole_rawp.jobs.comparison.feasibility import Plan
from recbole_rawp.jobs.comparison.grid import Cell, Grid
from recbole_rawp.jobs.trainers import write_settings
from recbole_rawp.report.comparison import run_rows, summary
from recbole_rawp.report.comparison.summary import FAILED, FINISHED
from recbole_rawp.training.resume import FREE

FILE, ROWS, DEFENSES = "comparison.yaml", "runs.csv", "defenses"
OURS = (*GRID, "model", "dataset", "defense", "config_files", "resume", "rawp_output_dir")  # not options of a run

Rows = dict[str, dict[str, Any]]  # by the run's name


def compare(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    defenses: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    folder: str | None = None,
    *,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train every defense on every model and data set from every seed, attack all alike, and report.

    Args:
        models, datasets, defenses, seeds: see `grid.read`.
        config_file_list: as RecBole's; `NAME:FILE` is for the runs of that model, data set or defense alone.
        config_dict: options of all runs. Those on the command line win, as everywhere.
        folder: of the comparison, new, empty, or one to go on with: then what is not named is as it was, finished
            runs are kept, one that was killed goes on, one that failed is tried again. None: comparisons/TIME.
        argv: the words that were typed; None, as RecBole: those this process was started with.

    Returns:
        `rows` (one dictionary per run), `table` (Markdown), `verdict`, `failed` (name -> reason) and `output_dir`.

    Raises:
        InputError: for what cannot work, before the first training; or if a run that was begun had other settings.
    """
    argv = command_line.words(argv)
    words, _ = command_line.read(argv)
    asked = {**(config_dict or {}), **{key: value for key, value in words.items() if key not in OURS}}
    before = read_grid(Path(folder).expanduser()) if folder else {}
    wanted = grid.read(
        before.get("models") if models is None else models,
        before.get("datasets") if datasets is None else datasets,
        before.get("defenses") if defenses is None else defenses,
        before.get("seeds") if seeds is None else seeds,
        before.get("config_files", ()) if config_file_list is None else config_file_list,
        {**before.get("options", {}), **asked},
    )
    check_grown(wanted, before)
    home = Path(folder or output_folder.unused("comparisons")).expanduser()
    made = feasibility.make(wanted)
    environment_text = environment.describe(next(iter(made.configs.values()))["device"], argv)
    if not before:
        home = output_folder.reserve(str(home), "", "", "", environment=environment_text)
    with output_folder.held(home, "compare"):
        begin(made, wanted, home, environment_text)
        rows = run_all(made, home, [f"--{key}={words[key]}" for key in FREE if key in words and key not in OURS])
        return summary.write(home, list(rows.values()), made.notes)


def check_begun(folder: str) -> None:
    """Raise InputError if the folder holds no comparison."""
    if not (Path(folder).expanduser() / FILE).is_file():
        raise InputError(f"resume: '{folder}' holds no {FILE}. Name the folder of a comparison.")


def read_grid(home: Path) -> dict[str, Any]:
    """Return what the comparison in a folder was asked for; nothing if the folder is new or empty.

    Raises:
        InputError: if it holds something else, or the file cannot be read.
    """
    file = home / FILE
    if not file.is_file():
        output_folder.check_free(str(home))
        return {}
    nothing: dict[str, Any] = {**dict.fromkeys(GRID), "config_files": [], "options": {}}
    before = nothing | read_mapping(str(file), option="resume", hint=" Start anew.")
    for key in nothing:
        kind = dict if key == "options" else list
        if not isinstance(before[key], kind):
            raise InputError(f"resume: '{file}': {key}: {before[key]!r} is no {kind.__name__}. Start anew.")
    before["defenses"] = [str(home / name) if is_yaml(name) else name for name in before["defenses"]]
    return before


def check_grown(wanted: Grid, before: Mapping[str, Any]) -> None:
    """Raise InputError if runs of the comparison that goes on are asked for no longer; more of them are welcome."""
    for key in GRID:
        called: Callable[[Any], str] = name_of if key == "defenses" else str
        now = set(map(called, getattr(wanted, key)))
        if missing := [name for name in map(called, before.get(key, ())) if name not in now]:
            raise InputError(
                f"{key}: {', '.join(missing)} missing, which the comparison that goes on has. Name all of them, or "
                f"leave --{key} out; for fewer start anew."
            )


def begin(made: Plan, wanted: Grid, home: Path, environment_text: str) -> None:
    """Write what the runs need into the folder: the grid, settings and environment of each, candidates of each data.

    Raises:
        InputError: if a run that was begun had other settings.
    """
    for cell, config in made.configs.items():
        folder = home / cell.name
        if (folder / "settings.yaml").exists():
            unchanged.check_unchanged(config, settings_in(folder, argv=[]), folder)
            suite = folder / "suite.yaml"
            unchanged.check_suite(config, suite.read_text(encoding="utf-8"), str(suite))
    write_grid(wanted, home)
    made.save_candidates(home)
    for cell, config in made.configs.items():
        folder = home / cell.name
        if cell not in made.impossible and not (folder / "settings.yaml").exists():
            folder.mkdir(exist_ok=True)
            files.write_text(folder / "environment.txt", environment_text + "\n")
            write_settings([config], folder)


def write_grid(wanted: Grid, home: Path) -> None:
    """Write what was asked for as `read_grid` reads it from any other folder, and copies of the defenses' files."""
    defenses = []
    for defense in wanted.defenses:
        kept = home / DEFENSES / f"{name_of(defense)}.yaml"
        if is_yaml(defense) and not (kept.exists() and kept.samefile(Path(defense).expanduser())):
            kept.parent.mkdir(exist_ok=True)
            files.copy(Path(defense).expanduser(), kept)
        defenses.append(f"{DEFENSES}/{kept.name}" if is_yaml(defense) else defense)
    axes = {key: list(getattr(wanted, key)) for key in GRID} | {"defenses": defenses}
    rest = {"config_files": wanted.whole_paths(), "options": wanted.options}
    files.write_text(home / FILE, environment.as_yaml(axes | rest))


def run_all(made: Plan, home: Path, words: Sequence[str]) -> Rows:
    """Run what is not finished, each run to its end or failure; write its row at once. Return all rows in order."""
    rows = read_rows(home)
    cells = list(made.configs)
    for number, cell in enumerate(cells, 1):
        name = f"[{number}/{len(cells)}] {cell.name}"
        if finished(rows.get(cell.name), home):
            print(f"{name}: finished before")
            continue
        if reason := made.impossible.get(cell):
            rows[cell.name] = failure(cell, reason)
        else:
            plain = plain_run(cell, made, home)
            plain = plain if plain and finished(rows.get(plain.name), home) else None
            print(f"{name}: begins" + (f", from the model of {plain.name}" if plain else ""))
            if plain:
                begin_from(home / plain.name, home / cell.name)
            rows[cell.name] = run(cell, home, words)
            if plain and rows[cell.name]["status"] == FINISHED:
                rows[cell.name]["seconds"] += float(rows[plain.name]["seconds"])
        row = rows[cell.name]
        files.whole(home / ROWS, lambda path: pd.DataFrame(list(rows.values())).to_csv(path, index=False))
        print(f"{name}: {row['status']}" + f": {row['reason']}" * (row["status"] == FAILED))
    return {cell.name: rows[cell.name] for cell in cells}


def plain_run(cell: Cell, made: Plan, home: Path) -> Cell | None:
    """Return the run whose model is the plain one of a run that finds its radius; None if there is none.

    It has the same settings of RecBole's, from the same seed; a run that began otherwise goes on as it began.
    """
    plain, folder = replace(cell, defense="none"), home / cell.name
    begun = (folder / "resume.pt").exists() and not (folder / train.ORIGINAL).exists()
    if begun or plain not in made.configs or made.configs[cell].settings.training.clean_budget is None:
        return None
    theirs, own = (unchanged.of_recbole(made.configs[one]) for one in (plain, cell))
    return plain if theirs == own and plain != cell else None


def begin_from(plain: Path, folder: Path) -> None:
    """Let a run's stage 1 go on from the model of a plain run, unless it does already."""
    if not (folder / train.ORIGINAL).exists():
        files.copy(plain / "model.pth", folder / train.ORIGINAL)


def run(cell: Cell, home: Path, words: Sequence[str]) -> dict[str, Any]:
    """Begin a run or go on with it; return its row. An error is a row, too; only a kill ends the comparison."""
    folder = home / cell.name
    trace = folder / "failure.txt"
    trace.unlink(missing_ok=True)
    try:
        result = train.continue_run(str(folder), argv=["train", f"--resume={folder}", *words])
        return described(cell) | run_rows.measure(folder) | {"status": FINISHED, "seconds": result["seconds"]}
    except InputError as error:
        return failure(cell, str(error))
    except Exception as error:  # one run's defect must not cost the others
        files.write_text(trace, traceback.format_exc())
        return failure(cell, f"{type(error).__name__}: {' '.join(str(error).split())} (see {trace})")


def described(cell: Cell) -> dict[str, Any]:
    """Return the columns that every row begins with."""
    own = {"model": cell.model, "dataset": cell.dataset, "defense": cell.defense, "seed": cell.seed}
    return own | {"folder": cell.name, "status": "", "reason": ""}


def failure(cell: Cell, reason: str) -> dict[str, Any]:
    """Return the row of a run that failed."""
    return described(cell) | {"status": FAILED, "reason": reason}


def finished(row: Mapping[str, Any] | None, home: Path) -> bool:
    """Tell whether a run is finished and what it found is there."""
    return row is not None and row["status"] == FINISHED and (home / row["folder"] / "records.csv").exists()


def read_rows(home: Path) -> Rows:
    """Return the rows that were written, by the names of their runs.

    Raises:
        InputError: if they cannot be read, or are no rows of runs.
    """
    file = home / ROWS
    if not file.exists():
        return {}
    words = ("model", "dataset", "defense", "folder", "status", "reason", "metric", "attacked")
    types = dict.fromkeys(words, str)
    try:
        frame = pd.read_csv(file, dtype=types, float_precision="round_trip", keep_default_na=False, na_values=[""])
        known = frame.fillna({word: "" for word in words if word in frame})
        rows = {row["folder"]: row for row in known.to_dict("records")}
        if len(rows) < len(known) or not known["status"].isin((FINISHED, FAILED)).all():
            raise ValueError("a run is there twice, or neither finished nor failed")
        known.loc[known["status"] == FINISHED, "seconds"].astype(float)
    except Exception as error:  # what a damaged file raises is anybody's guess
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"resume: cannot read '{file}': {reason}. Remove it: what was trained is kept, and attacked again."
        ) from error
    return rows

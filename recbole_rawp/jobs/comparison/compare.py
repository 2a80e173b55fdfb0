"""Compares defenses over models, data sets and seeds: a grid of runs that goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_rawp import files
from recbole_rawp.config import command_line
from recbole_rawp.config.command_line import GRID
from recbole_rawp.config.properties import name_of
from recbole_rawp.config.yaml_files import is_yaml, read_mapping
from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import settings_in
from recbole_rawp.jobs.comparison import feasibility, grid, unchanged
from recbole_rawp.jobs.comparison import workers as working
from recbole_rawp.jobs.comparison.feasibility import Plan
from recbole_rawp.jobs.comparison.grid import Grid
from recbole_rawp.jobs.trainers import write_settings
from recbole_rawp.report.comparison import summary
from recbole_rawp.training.resume import FREE

FILE, DEFENSES = "comparison.yaml", "defenses"
OURS = (
    *GRID,
    "model",
    "dataset",
    "defense",
    "config_files",
    "resume",
    "workers",
    "rawp_output_dir",
)  # not options of a run


def compare(
    models: str | Sequence[str] | None = None,
    datasets: str | Sequence[str] | None = None,
    defenses: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    folder: str | None = None,
    *,
    workers: int = 1,
    argv: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train every defense on every model and data set from every seed, attack all alike, and report.

    Args:
        models, datasets, defenses, seeds: see `grid.read`.
        config_file_list: as RecBole's; `NAME:FILE` is for the runs of that model, data set or defense alone.
        config_dict: options of all runs. Those on the command line win, as everywhere.
        folder: of the comparison, new, empty, or one to go on with: then what is not named is as it was, finished
            runs are kept, one that was killed goes on, one that failed is tried again. None: comparisons/TIME.
        workers: how many processes train and attack; others may join from elsewhere, with the folder alone.
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
    with output_folder.resumable(home, "compare"):
        with output_folder.held(home, patience=output_folder.FOREVER):
            begin(made, wanted, home, environment_text)
        again = [f"--{key}={words[key]}" for key in FREE if key in words and key not in OURS]
        with working.others(workers - 1, home, again):
            rows = working.run_all(made, home, again)
        with output_folder.held(home, patience=output_folder.FOREVER):
            return summary.write(home, list(rows.values()), made.notes)


def join(folder: str, words: Sequence[str]) -> None:
    """Do runs of the comparison in a folder until none is left; `words` are options that change no result."""
    home = Path(folder)
    before = read_grid(home)
    made = feasibility.make(grid.read(*(before[key] for key in (*GRID, "config_files", "options"))))
    with output_folder.resumable(home, "compare"):
        working.run_all(made, home, words)


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

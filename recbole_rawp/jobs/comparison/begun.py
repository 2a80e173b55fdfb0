"""Keeps what a comparison was asked for in its folder, and what each of its runs needs to begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_rawp import files
from recbole_rawp.config.command_line import GRID
from recbole_rawp.config.properties import name_of
from recbole_rawp.config.yaml_files import is_yaml, read_mapping
from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.jobs import output_folder
from recbole_rawp.jobs.checkpoints import settings_in
from recbole_rawp.jobs.comparison import unchanged
from recbole_rawp.jobs.comparison.grid import Grid
from recbole_rawp.jobs.trainers import write_settings

if TYPE_CHECKING:
    from recbole_rawp.jobs.comparison.feasibility import Plan

FILE, DEFENSES = "comparison.yaml", "defenses"


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

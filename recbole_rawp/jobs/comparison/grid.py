"""Lists the runs of a comparison: every defense on every model, data set and seed, each with its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_rawp.config.properties import name_of, of_defense
from recbole_rawp.config.suites import with_whole_paths
from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.host.models.classes import named, spelled

COUNT = 1000  # a number of seeds below it is a count, from it on a seed
SEEDS = 3  # where none are named


@dataclass(frozen=True)
class Cell:
    """One run of a comparison; its defense is called by its name, also where it is a file."""

    model: str
    dataset: str
    defense: str
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        return f"{self.model}-{self.dataset}-{self.defense}-{self.seed}"

    @property
    def group(self) -> tuple[str, str]:
        """Return model and data set, within which defenses compare."""
        return self.model, self.dataset


@dataclass(frozen=True)
class Grid:
    """The runs of a comparison, and what they are set to.

    Attributes:
        models, datasets, defenses, seeds: every combination is a run. A model is a name or `package.module:Class`, a
            defense a name or the path of a file.
        files: config files; `NAME:FILE` is for the runs of that model, data set or defense alone.
        options: of all runs; they win over the files.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    defenses: tuple[str, ...]
    seeds: tuple[int, ...]
    files: tuple[str, ...]
    options: Mapping[str, Any]

    def cells(self) -> list[Cell]:
        """Return the runs in order: all defenses of a seed, then the next, so that a part is a comparison, too."""
        return [
            Cell(class_name(model), dataset, name_of(defense), seed)
            for dataset in self.datasets
            for model in self.models
            for seed in self.seeds
            for defense in self.defenses
        ]

    def settings(self, cell: Cell, extra: Mapping[str, Any]) -> RAWPConfig:
        """Return the settings of a run; `extra` wins over all.

        Raises:
            InputError: for what `RAWPConfig` refuses.
        """
        (defense,) = (defense for defense in self.defenses if name_of(defense) == cell.defense)
        (model,) = (model for model in self.models if class_name(model) == cell.model)
        own = {"defense": defense, "seed": cell.seed, "rawp_output_dir": None}
        names = (cell.model, cell.dataset, cell.defense)
        mine = [file for owner, file in map(self.owned, self.files) if owner is None or owner in names]
        return RAWPConfig(model, cell.dataset, mine, {**self.options, **own, **extra}, argv=[])

    def owned(self, file: str) -> tuple[str | None, str]:
        """Return whose config file it is, None for everybody's, and its path."""
        owner, colon, path = file.partition(":")
        names = (*map(class_name, self.models), *self.datasets, *map(name_of, self.defenses))
        if not colon or (owner not in names and Path(file).exists()):
            return None, file
        if owner not in names:
            raise InputError(
                f"config_files: '{file}': no model, data set or defense '{owner}' is compared."
                f"{suggestion(owner, names)} Before the colon stands the one whose runs the file is for."
            )
        return owner, path

    def whole_paths(self) -> list[str]:
        """Return the config files by their whole paths, for whoever goes on from another folder."""
        found = map(self.owned, self.files)
        return [f"{owner}:{Path(path).resolve()}" if owner else str(Path(path).resolve()) for owner, path in found]


def read(
    models: Any, datasets: Any, defenses: Any, seeds: Any, files: Iterable[str], options: Mapping[str, Any]
) -> Grid:
    """Return the grid that was asked for.

    Args:
        models, datasets, defenses: names in a list, or with commas between them, classes too of models; None for model
            and data set takes what the files or options name.
        seeds: a count below 1000, from the configured `seed` on; a seed; or seeds; None is 3 of them.
        files, options: see `Grid`.

    Raises:
        InputError: for what is missing or is no name or seed.
    """
    found = {"models": names("models", models), "datasets": names("datasets", datasets)}
    protectors = names("defenses", defenses)
    if not protectors:
        raise InputError("--defenses: missing. Name them, as in --defenses=none,awp,rawp.")
    check_defenses(protectors)
    files = tuple(files)
    for key, several in found.items():
        if not several and not files and key[:-1] not in options:
            raise InputError(f"--{key[:-1]}: missing. Name it, as in --model=NeuMF --dataset=ml-100k.")
    shared = [file for file in files if ":" not in file or Path(file).exists()]
    first_model, first_dataset = (next(iter(several), None) for several in found.values())
    check_apart("models", found["models"], class_name)
    base = RAWPConfig(first_model, first_dataset, shared, {**options, "rawp_output_dir": None}, argv=[])
    model, dataset = found["models"] or (named(base),), found["datasets"] or (base["dataset"],)
    kept = {key: value for key, value in options.items() if key not in ("model", "dataset", "seed")}
    return Grid(model, dataset, protectors, numbers(seeds, base["seed"]), files, with_whole_paths(kept))


def check_defenses(defenses: Sequence[str]) -> None:
    """Raise InputError for a defense that does not exist, or two files of one name."""
    for defense in defenses:
        try:
            of_defense(defense)
        except InputError as error:
            raise InputError(str(error).replace("defense:", "defenses:", 1)) from error
    check_apart("defenses", defenses, name_of)


def check_apart(key: str, listed: Sequence[str], called: Callable[[str], str]) -> None:
    """Raise InputError if two of `key` are called the same, as two files or classes in different places may be."""
    first: dict[str, str] = {}
    for one in listed:
        if first.setdefault(called(one), one) != one:
            raise InputError(f"{key}: '{first[called(one)]}' and '{one}' have the same name. Rename one of them.")


def class_name(model: str) -> str:
    """Return what a model is called in tables and in names of folders."""
    return model.rpartition(":")[2].rpartition(".")[2]


def names(key: str, value: Any) -> tuple[str, ...]:
    """Return the names in a list or between commas, each once.

    Raises:
        InputError: if one is empty.
    """
    if value is None:
        return ()
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    found = dict.fromkeys(
        (spelled(name) if isinstance(name, type) else str(name)).strip().strip("[]'\"") for name in listed
    )
    if not found or "" in found:
        raise InputError(f"{key}: {value!r} has an empty name. Write names with commas between them, without spaces.")
    return tuple(found)


def numbers(value: Any, first: int) -> tuple[int, ...]:
    """Return the seeds: a number alone below 1000 counts them, from `first` on.

    Raises:
        InputError: if one is no whole number, or there is none.
    """
    value = SEEDS if value is None else value
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    if not listed or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in listed):
        raise InputError(f"seeds: {value!r} is not valid. Write a count, as in --seeds=3, or seeds: --seeds=2020,2021.")
    if isinstance(value, int) and value < COUNT:
        if value == 0:
            raise InputError("seeds: 0 leaves nothing to run. Write a count, as in --seeds=3.")
        return tuple(range(first, first + value))
    return tuple(dict.fromkeys(listed))

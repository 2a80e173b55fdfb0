"""Reads what an experiment declares: its runs, tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import wrap
from typing import Any

import pandas as pd
import yaml

from recbole_rawp.errors import InputError
from results.figures import Figure
from results.tables import Table, columns, expand, read

GRID = ("models", "datasets", "defenses", "seeds")


@dataclass(frozen=True)
class Run:
    """A comparison.

    Attributes:
        models, datasets, defenses, seeds, config_files, options: see `recbole_rawp.jobs.comparison.compare.compare`.
        columns: columns of the records that get a value of ours, `{model: MLP-512}`.
        stage_1: the defense as which stage 1 of `rawp_ft` counts; where none is named it is left out.
    """

    models: Sequence[str]
    datasets: Sequence[str]
    defenses: Sequence[str]
    seeds: Sequence[int]
    config_files: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    stage_1: str = ""

    def command(self, folder: str) -> str:
        """Return what is typed for it."""
        grid = {key: ",".join(map(str, getattr(self, key))) for key in GRID}
        options = {**grid, "config_files": " ".join(self.config_files), **self.options, "rawp_output_dir": folder}
        words = [f"--{key}={word(value)}" for key, value in options.items() if value != ""]
        lines = wrap(" ".join(["recbole-rawp compare", *words]), 116, break_long_words=False, break_on_hyphens=False)
        return " \\\n    ".join(lines)

    def records(self, folder: Path) -> Iterator[pd.DataFrame]:
        """Yield the records of the runs in the folder that are finished; the metric `seconds` is what training took."""
        rows = pd.read_csv(folder / "runs.csv") if (folder / "runs.csv").exists() else pd.DataFrame(columns=["folder"])
        for file in sorted(folder.glob("*/records.csv")):
            frame = read(file)
            for seconds in rows[rows["folder"] == file.parent.name].get("seconds", []):
                last = frame[frame["stage"] == frame["stage"].max()].iloc[[0]]
                frame = pd.concat([frame, last.assign(metric="seconds", level=0.0, value=seconds)], ignore_index=True)
            if self.stage_1 and {"rawp_ft", "rawp_ft_reference"} & set(frame["defense"]):
                first = frame[(frame["stage"] == frame["stage"].min()) & (frame["metric"] != "seconds")]
                yield first.assign(**{"defense": self.stage_1, **self.columns})
            yield frame[frame["stage"] == frame["stage"].max()].assign(**self.columns)


@dataclass(frozen=True)
class Experiment:
    """A declared experiment, its page, the CSV file of its records, and the folder that these and pictures lie in."""

    name: str
    home: Path
    page: Path
    csv: Path
    runs: Mapping[str, Run]
    tables: Sequence[Table]
    figures: Sequence[Figure]


def word(value: Any) -> str:
    """Return the value of an option as it is typed: as YAML, within quotes where a shell would part it."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
    text = text.removesuffix("...\n").strip()
    return f'"{text}"' if {*" [{"} & {*text} else text


def load(file: Path) -> Experiment:
    """Read `experiments/NAME.yaml`; `page` and `csv`, where they are not NAME.md and NAME.csv, lie beside its folder.

    Raises:
        InputError: if there is no such file, or it says what it cannot say.
    """
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.yaml")))
        raise InputError(f"experiment: there is no '{file}'. Known: {known}.")
    said, home, name = yaml.safe_load(file.read_text(encoding="utf-8")), file.parent.parent, file.stem
    try:
        runs = {key: Run(**own) for key, own in said.get("runs", {}).items()}
        tables = [
            each for own in said["tables"] for each in expand(Table(**{**own, "columns": columns(*own["columns"])}))
        ]
        figures = [each for own in said.get("figures", []) for each in expand(Figure(**own))]
    except (TypeError, KeyError) as error:
        raise InputError(f"experiment: '{file}': {error}. See Run, Table, Column and Figure in '{home}'.") from error
    page, csv = (home / said.get(key, f"{name}.{end}") for key, end in (("page", "md"), ("csv", "csv")))
    return Experiment(name, home, page, csv, runs, tables, figures)

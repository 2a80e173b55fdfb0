"""Defines a section of a run's report, and their order: 10 findings, 60 radius, 70 stage 2, 90 foundations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from recbole_rawp.report.run_files import Run


@dataclass(frozen=True)
class Material:
    """What a section may draw from.

    Attributes:
        folder: of the report; pictures that a section names are written there.
        run: what was measured.
        frame: its records of the headline metric, see `scores.complete`.
        trainer: the hardened trainer, for what training saw; None where runs are merged.
        command: what repeats the report, Markdown.
    """

    folder: Path
    run: Run
    frame: pd.DataFrame
    trainer: Any
    command: str


Section = Callable[[Material], "list[str]"]
RunSection = Callable[[Any, Path], "list[str]"]
SECTIONS: dict[int, Section] = {}


def section(place: int) -> Callable[[Section], Section]:
    """Register a section; `place` orders the page from low to high.

    Raises:
        ValueError: if another section has that place.
    """

    def add(function: Section) -> Section:
        """Keep the section."""
        if place in SECTIONS:
            raise ValueError(f"sections: place {place} is taken by {SECTIONS[place].__module__}")
        SECTIONS[place] = function
        return function

    return add


def section_of_run(place: int) -> Callable[[RunSection], RunSection]:
    """Register a section on one run, (hardened trainer, folder) -> parts; it is left out where runs are merged.

    Raises:
        ValueError: as `section`.
    """

    def add(function: RunSection) -> RunSection:
        """Keep the section."""
        section(place)(lambda material: function(material.trainer, material.folder) if material.trainer else [])
        return function

    return add


def parts(material: Material) -> list[str]:
    """Return the Markdown parts of all sections, in order."""
    return [part for place in sorted(SECTIONS) for part in SECTIONS[place](material)]

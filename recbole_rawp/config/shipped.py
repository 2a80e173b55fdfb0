"""Finds the YAML files that ship with the package."""

from __future__ import annotations

from pathlib import Path


def properties() -> Path:
    """Return the folder of our YAML files: inside the installed package, beside it in the source tree."""
    package = Path(__file__).parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def names(folder: str) -> list[str]:
    """Return the names of our YAML files in one of its folders: `defense`, `attack`, `published`."""
    return sorted(file.stem for file in (properties() / folder).glob("*.yaml"))

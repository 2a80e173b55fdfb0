"""Finds the values that the user did not give: the schema's, the defense's."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.config.command_line import literal
from recbole_rawp.config.schema import OF_A_DEFENSE, OPTIONS, no_such
from recbole_rawp.config.shipped import names, properties
from recbole_rawp.config.yaml_files import is_yaml, read_mapping
from recbole_rawp.errors import InputError, suggestion


def defaults(defense: str, given: Collection[str] = ()) -> dict[str, Any]:
    """Return our options' defaults: the schema's < the defense's.

    Args:
        defense: a name, or the path of a YAML file.
        given: the options that are set otherwise. If they are all that a defense may set, its file is not read, and may
            be gone: so a run and its checkpoint, which hold all values, do not depend on it.

    Raises:
        InputError: if there is no such defense, or its file cannot be used.
    """
    values = {name: option.default for name, option in OPTIONS.items()}
    if not (is_yaml(defense) and set(given).issuperset(OF_A_DEFENSE)):
        values.update(of_defense(defense))
    return values | {"defense": defense}


def of_defense(defense: str) -> dict[str, Any]:
    """Return the options that a defense sets: its name is that of a file of properties/defense, or a file's path.

    Raises:
        InputError: if there is no such defense, its file is no mapping of our options, or it has a name that is taken.
    """
    if is_yaml(defense):
        return _own(defense)
    known = defenses()
    if defense not in known:
        raise InputError(
            f"defense: no file properties/defense/{defense}.yaml.{suggestion(str(defense), known)} "
            f"Known: {', '.join(known)}"
        )
    return _shipped(f"defense/{defense}.yaml")


def name_of(defense: str) -> str:
    """Return the name of a defense in records, tables and folders' names: that of its file, without folder and end."""
    return Path(defense).stem if is_yaml(defense) else defense


def defenses() -> list[str]:
    """Return the names of the defenses that ship with the package."""
    return names("defense")


def _shipped(name: str) -> dict[str, Any]:
    """Return the values in a file of the properties; nothing if there is none."""
    file = properties() / name
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {} if file.is_file() else {}


def _own(defense: str) -> dict[str, Any]:
    """Return the values in a user's file of a defense; InputError as `of_defense`."""
    file = Path(defense).expanduser()
    if file.stem in defenses():
        raise InputError(
            f"defense: '{defense}' has the name of a defense that ships with the package. Rename the file."
        )
    if not file.is_file():
        raise InputError(
            f"defense: there is no file '{defense}'. Name a YAML file of yours, or one of {', '.join(defenses())}."
        )
    values = read_mapping(str(file), option="defense", hint=" See properties/defense/awp.yaml.")
    for key in values:
        if key in OPTIONS and key not in OF_A_DEFENSE:
            raise InputError(f"defense: '{defense}': {key}: not for a defense to say. Set it beside the defense.")
        if key not in OPTIONS:
            raise InputError(f"defense: '{defense}': {no_such(str(key))}")
    return {key: literal(value) for key, value in values.items()}  # YAML takes 1e-3, which lacks a dot, for a word

"""Tells the YAML files of users by their names, and reads them or says in one line why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.errors import InputError


def is_yaml(value: Any) -> bool:
    """Tell whether a value is the path of a YAML file, and not the name of one that ships with the package."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml"))


def read_mapping(path: str, *, option: str, loader: Any = yaml.SafeLoader, hint: str = "") -> dict[str, Any]:
    """Return the keys and values that a YAML file holds; InputError as `read_yaml`, or if there are none."""
    content = read_yaml(path, option=option, loader=loader)
    if not isinstance(content, dict):
        hint = hint or " Write an option on each line, as epochs: 10."
        raise InputError(f"{option}: '{path}' holds no 'key: value' lines.{hint}")
    return content


def read_yaml(path: str, *, option: str, loader: Any = yaml.SafeLoader) -> Any:
    """Return what a YAML file holds.

    Raises:
        InputError: naming `option`, which named the file, if it cannot be read.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)
    except OSError as error:
        raise InputError(f"{option}: cannot read '{path}': {error.strerror}. Name a YAML file.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{option}: cannot read '{path}': {reason}. Mend it: YAML, saved as UTF-8.") from error

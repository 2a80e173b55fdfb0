"""Where do values come from that the user did not give?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recbole_rawp.errors import InputError, suggestion


def defaults(model: str, defense: str) -> dict[str, Any]:
    """Return our options' defaults: rawp.yaml < model/<model>.yaml < defense/<defense>.yaml.

    Raises:
        InputError: if there is no such defense.
    """
    names = defenses()
    if defense not in names:
        raise InputError(
            f"defense: no file properties/defense/{defense}.yaml.{suggestion(str(defense), names)} "
            f"Known: {', '.join(names)}"
        )
    values: dict[str, Any] = {}
    for name in ("rawp.yaml", f"model/{model}.yaml", f"defense/{defense}.yaml"):
        resource = properties() / name
        if resource.is_file():
            values.update(yaml.safe_load(resource.read_text(encoding="utf-8")) or {})
    return values | {"defense": defense}


def defenses() -> list[str]:
    """Return the names of the defenses that ship with the package."""
    return sorted(
        Path(entry.name).stem for entry in (properties() / "defense").iterdir() if entry.name.endswith(".yaml")
    )


def properties() -> Path:
    """Return the folder of our YAML files: inside the installed package, beside it in the source tree."""
    package = Path(__file__).parent.parent
    installed = package / "properties"
    return installed if installed.is_dir() else package.parent / "properties"


def default_defense() -> str:
    """Return the defense where none is named."""
    return yaml.safe_load((properties() / "rawp.yaml").read_text(encoding="utf-8"))["defense"]

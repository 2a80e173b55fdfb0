"""Tells whether a comparison that goes on has the settings and threats with which it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_rawp.config.properties import name_of
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.suites import written
from recbole_rawp.errors import InputError
from recbole_rawp.host import environment
from recbole_rawp.host.config import RAWPConfig
from recbole_rawp.training.resume import FREE


def check_unchanged(config: RAWPConfig, before: RAWPConfig, folder: Path) -> None:
    """Raise InputError if the run in `folder`, which was begun, had other settings than it has now."""
    for key in sorted(before.final_config_dict.keys() | config.final_config_dict.keys()):
        old, new = (plain(placed(key, one.final_config_dict.get(key), folder)) for one in (before, config))
        if old != new and key not in (*FREE, *environment.ONCE, "checkpoint_dir", "device"):
            raise InputError(
                f"{key}: {config[key]!r}, but the run in '{folder}' has {before[key]!r}. A comparison goes on as it "
                f"began: leave {key} as it was, or name a new --rawp_output_dir."
            )


def of_recbole(config: RAWPConfig) -> dict[str, str]:
    """Return the settings that are RecBole's, as text: runs that share them train the same plain model."""
    own = {*OPTIONS, *environment.ONCE, "checkpoint_dir"}
    return {key: plain(value) for key, value in config.final_config_dict.items() if key not in own}


def placed(key: str, value: Any, folder: Path) -> Any:
    """Return the setting as it stays when the comparison moves: candidates by their whole path, a defense by name."""
    if key == "attack_candidates" and value:
        near = folder / value
        return (near if near.is_file() else Path(value)).resolve()
    return name_of(value) if key == "defense" else value


def check_suite(config: RAWPConfig, before: str, where: str) -> None:
    """Raise InputError if the suite is a file that has changed since a run that was begun wrote its threats down."""
    if written(config.settings.attack.threats) != before:
        raise InputError(
            f"attack: {config['attack']!r} holds other threats than '{where}'. A comparison goes on as it began: put "
            "them back, or name a new --rawp_output_dir."
        )


def plain(value: Any) -> Any:
    """Return the value as settings.yaml gives it back."""
    return environment.as_yaml({"value": value})

"""Describes where a run ran: command, versions, machine, and its settings as a file that repeats it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from recbole.config import Config

import recbole_rawp
from recbole_rawp.config import command_line
from recbole_rawp.config.properties import defaults
from recbole_rawp.config.schema import OPTIONS
from recbole_rawp.config.yaml_files import is_yaml
from recbole_rawp.host.models.classes import named

# Derived, or of one run alone: its place and its processes.
ONCE = (
    *("MODEL_TYPE", "config_files", "rawp_output_dir"),
    *("local_rank", "nproc", "world_size", "ip", "port", "offset", "single_spec"),
)
PACKAGES = ("recbole", "torch", "numpy", "pandas", "scipy", "ray")


def describe(device: torch.device, argv: Sequence[str] | None = None) -> str:
    """Return the command, versions, commit and machine of this process, a line each; `argv` as RAWPConfig's."""
    packages = (f"{name} {_version(name)}" for name in PACKAGES)
    program, *words = command_line.command(argv)
    lines = [
        f"command: {shlex.join([Path(program).name, *words])}",
        f"recbole_rawp {recbole_rawp.__version__}, commit {_commit()}",
        f"Python {platform.python_version()}, {', '.join(packages)}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        f"device: {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}",
    ]
    return "\n".join(lines)


def settings(config: Config) -> dict[str, Any]:
    """Return what was set, RecBole's defaults too, without ours at their default: another defense has its own."""
    return _split(config)[0]


def settings_yaml(config: Config) -> str:
    """Return the settings of the run as YAML that repeats it when read as a config file.

    Options of ours at their default are comments: another --defense brings its own. Where the defense is a file, none
    is, so that the run goes on without it.
    """
    chosen, at_default = _split(config)
    comments = "".join(f"# {line}\n" for line in as_yaml(at_default).splitlines())
    return as_yaml(chosen) + "\n# Options at their default:\n" + comments


def _split(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that need saying, and our options at their default."""
    chosen = {**config.internal_config_dict, **config.external_config_dict}
    chosen |= {"model": named(config), "dataset": config["dataset"]}
    chosen |= {key: value for key, value in config.final_config_dict.items() if key in OPTIONS}  # set later, too
    for key in ONCE:
        chosen.pop(key, None)
    ours = {} if is_yaml(config["defense"]) else defaults(config["defense"] or "none")
    at_default = {
        key: chosen.pop(key) for key in list(chosen) if key != "defense" and chosen[key] == ours.get(key, ...)
    }
    return chosen, at_default


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Return settings as YAML; numpy numbers and paths, which YAML does not know, as plain numbers and strings."""
    return yaml.safe_dump(_plain(settings), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of the source tree this package runs from, `+` when it has changes; `unknown` outside one."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return "unknown (installed package)"
    try:
        head, changes = (
            subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True, timeout=10).stdout
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.strip() + ("+" if changes.strip() else "")

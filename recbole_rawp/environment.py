"""Where was it run, and with which versions?"""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import recbole_rawp

PACKAGES = ("recbole", "torch", "numpy", "pandas", "scipy", "ray")


def describe(device: torch.device) -> str:
    """Return the command, versions, commit and machine of this process, a line each."""
    packages = (f"{name} {_version(name)}" for name in PACKAGES)
    lines = [
        f"command: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        f"recbole_rawp {recbole_rawp.__version__}, commit {_commit()}",
        f"Python {platform.python_version()}, {', '.join(packages)}",
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads",
        f"device: {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}",
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of the source tree this package runs from, `+` when it has changes; `unknown` outside one."""
    root = Path(__file__).parent.parent
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

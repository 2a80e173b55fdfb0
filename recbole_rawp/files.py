"""Writes files whole or not at all. Every package may import this; it imports none of ours."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whole or not at all, under the very name that is given."""
    import numpy as np

    def write(partial: Path) -> None:
        """Write through an open file: given a name, numpy would append .npz."""
        with open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)

    whole(path, write)


def copy(source: Path, target: Path) -> None:
    """Copy a file whole or not at all."""
    whole(target, lambda partial: shutil.copyfile(source, partial))


def whole(path: Path, save: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    save(partial)
    os.replace(partial, path)

"""Writes files whole or not at all. Every package may import this; it imports `errors` alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_rawp.errors import InputError

if TYPE_CHECKING:
    import numpy as np

TORCH_CANNOT_WRITE = {
    "unexpected pos": "the disk may be full",
    "PytorchStreamWriter": "the disk may be full",
    "Parent directory": "its folder is gone",
}


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


def whole(path: Path, save: Callable[[Path], Any], *, noted: bool = False) -> None:
    """Write a file whole or not at all, and note its digest if that is wanted; InputError as `complete`."""
    partial = path.with_name(path.name + ".partial")
    with complete(path, partial):
        save(partial)
        (replace_noted if noted else os.replace)(partial, path)


@contextmanager
def complete(path: Path, partial: Path) -> Iterator[None]:
    """Leave no part of a file behind if the code inside cannot write it.

    Raises:
        InputError: if the disk is full, the folder gone, not to be written to, or the name too long.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink()
        torchs = (why for words, why in TORCH_CANNOT_WRITE.items() if words in str(error))
        reason = error.strerror if isinstance(error, OSError) else next(torchs, None)
        if reason is None:
            raise
        raise InputError(
            f"cannot write '{path}': {reason}. What was there is kept. Make room, or name another --rawp_output_dir."
        ) from error


DIGESTS = "digests.json"  # in a folder: name of a file -> digests of what was written last, and before


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def digests(folder: Path) -> dict[str, list[str]]:
    """Return the digests that a folder tells of its files; none where it tells none.

    Raises:
        InputError: if the file that tells them is damaged.
    """
    file = folder / DIGESTS
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(isinstance(known, list) for known in content.values()):
        raise InputError(
            f"checkpoint: '{file}', which tells what the files beside it were, is damaged. To use them all the same, "
            "delete it."
        )
    return content


def replace_noted(partial: Path, path: Path) -> None:
    """Put a file that was written in the place of another, and note its digest: a kill leaves a file that is noted."""
    new, there = digest(partial), [digest(path)] if path.exists() else []
    if not there:  # what is noted has to be there
        os.replace(partial, path)
    write_text(path.parent / DIGESTS, json.dumps(digests(path.parent) | {path.name: [new, *there]}))
    if there:
        os.replace(partial, path)

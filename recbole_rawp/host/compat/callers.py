"""Tells who calls: what is mended for RecBole stays as it is for everybody else."""

from __future__ import annotations

import sys


def called_from_recbole(depth: int) -> bool:
    """Tell whether the caller `depth` frames up is RecBole's own code."""
    name = sys._getframe(depth).f_globals.get("__name__", "")
    return name == "recbole" or name.startswith("recbole.")

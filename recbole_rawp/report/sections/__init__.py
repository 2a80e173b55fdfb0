"""The parts of a run's report, one file each; a new part is a file here, found by itself.

May import: `report`. Each file registers a function `Material -> Markdown parts` under its place in the page.
"""

from __future__ import annotations

import importlib
import pkgutil

from recbole_rawp.report.sections.section import Material, parts

__all__ = ["Material", "parts"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

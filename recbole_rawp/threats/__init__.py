"""Ways in which a model comes to differ from what was trained, each measured at several levels.

A new kind is one file here (see `threat`), found by itself. May import: `core`, `model`. Losses, batches and users come
in as callables and tensors. Must not enter: RecBole.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):  # each registers its kinds
    importlib.import_module(f"{__name__}.{_module.name}")

"""Lets RecBole find our networks: it looks for modules named like the model, and ours answer to such names."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NETWORKS = {"MLP": "recbole_rawp.model.mlp"}
PLACES = {f"recbole.model.general_recommender.{name.lower()}": module for name, module in NETWORKS.items()}


class Finder(MetaPathFinder, Loader):
    """Finds our modules under RecBole's names; they are imported when RecBole asks, and once."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where to find the module `name`; None if it is not ours."""
        return ModuleSpec(name, self) if name in PLACES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return our module."""
        module = importlib.import_module(PLACES[spec.name])
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Put back what the import system changed; the module ran when it was imported."""
        module.__spec__ = self.spec


def apply() -> list[str]:
    """Let RecBole's `get_model` find our networks; a model of RecBole's own with such a name comes first.

    Returns the names of the networks that this call added.
    """
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return []
    sys.meta_path.append(Finder())
    return list(NETWORKS)

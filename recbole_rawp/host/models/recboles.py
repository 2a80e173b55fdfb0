"""Knows RecBole's models by name: which there are, which have no gradient, and what some need installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import recbole.model
from recbole.utils import get_model

from recbole_rawp.errors import InputError, suggestion
from recbole_rawp.host.models.networks import NETWORKS

CLASS = re.compile(r"^class (\w+)\(", re.MULTILINE)
NO_GRADIENT = {
    **dict.fromkeys(("Pop", "Random"), "it has no trained weights"),
    **dict.fromkeys(("ItemKNN", "AsymKNN"), "it is a neighbourhood method without trained weights"),
    **dict.fromkeys(("EASE", "ADMMSLIM", "NCEPLRec"), "its weights have a closed form"),
    "SLIMElastic": "its weights come from coordinate descent",
    **dict.fromkeys(("XGBoost", "LightGBM"), "it is an ensemble of decision trees"),
}
SCATTER = "pip install --no-build-isolation torch_scatter"
NEEDS = {  # model -> what it imports only when it is built or trained, and how to get it
    "KGAT": ("dgl", "pip install dgl==1.1.3"),
    "KGIN": ("torch_scatter", SCATTER),
    "MCCLK": ("torch_scatter", SCATTER),
    "NCL": ("faiss", "pip install faiss-cpu"),
}


def check_gradient(name: str, reason: str | None = None) -> None:
    """Raise InputError for a model that is not trained by gradient descent: RecBole's by its name, or for `reason`."""
    if reason := reason or NO_GRADIENT.get(name):
        raise InputError(
            f"model: {name} is not trained by gradient descent ({reason}), so there is nothing to harden "
            "or attack. Choose a model with trained weights, such as NeuMF."
        )


def names() -> list[str]:
    """Return the names of RecBole's models, and of ours."""
    sources = Path(recbole.model.__file__).parent.glob("*_recommender/*.py")
    theirs = {
        cls for file in sources for cls in CLASS.findall(file.read_text(encoding="utf-8")) if cls.lower() == file.stem
    }
    return sorted(theirs | NETWORKS.keys(), key=str.lower)


def check_model(name: str) -> None:
    """Raise InputError if there is no gradient-trained model of this name, or what it needs is not installed."""
    check_gradient(name)
    known = names()
    if name not in known:
        hint = suggestion(name, known)
        own = " One of your own is named package.module:Class, or passed as a class."
        raise InputError(f"model: RecBole has no model '{name}'.{hint}{own}")
    try:
        get_model(name)
    except ImportError as error:
        raise InputError(f"model: {name} needs a package that is not installed: {error}. Install it.") from error
    if name in NEEDS:
        check_package(name, *NEEDS[name])


def check_package(model: str, package: str, command: str) -> None:
    """Raise InputError if the package that a model needs is missing or broken."""
    try:
        importlib.import_module(package)
    except Exception as error:  # one built for another torch may raise anything; dgl 2.1.0 misses a file
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if missing else f"cannot be imported ({reason})"
        raise InputError(f"model: {model} needs the package '{package}', which {state}. Try `{command}`.") from error

"""Does the house keep its plan?  Imports between packages go one way, folders are small, chains of imports short."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "recbole_rawp"
# From bottom to top: a package may import those before it. `errors` and `files` are for everybody.
ORDER = ("core", "model", "threats", "config", "host", "training", "evaluation", "report", "jobs", "cli")
GROUND = ("errors", "files")
FILES = 12  # in a folder
CHAIN, CHAIN_WITHIN = 13, 5  # files in the longest chain of imports, and of those within one package


def modules() -> dict[str, Path]:
    """Return dotted name -> file of every module."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found["recbole_rawp.__main__"]  # a script, like run_recbole_rawp.py
    return found


MODULES = modules()


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules of ours that a module imports, anywhere in it but for type checking alone."""
    found = set()
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for branch in [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]:
        branch.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module}
            found |= {node.module} if whole - MODULES.keys() else set()
    return frozenset(found & MODULES.keys()) - {name}


def package(name: str) -> str:
    """Return the package of a module; its own name, at the top."""
    return name.split(".")[1] if "." in name else ""


@cache
def chain(name: str, inside: str = "") -> tuple[str, ...]:
    """Return the longest chain of imports from a module down, of modules of one package if one is named."""
    below = [
        chain(other, inside) for other in imports(name) if other != "recbole_rawp" and inside in ("", package(other))
    ]
    return (name, *max(below, key=len, default=()))


def test_every_package_has_its_place():
    assert {package(name) for name in MODULES} == {"", *ORDER, *GROUND}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_one_way(name):
    own = package(name)
    allowed = (*GROUND, *ORDER[: ORDER.index(own) + 1]) if own in ORDER else GROUND[: own in GROUND]
    wrong = [other for other in imports(name) if package(other) not in allowed and own and other != "recbole_rawp"]
    assert not wrong, f"{name} imports {', '.join(wrong)}"


def test_folders_are_small_and_say_what_they_are_for():
    for folder in {path.parent for path in MODULES.values()}:
        assert len(list(folder.glob("*.py"))) <= FILES, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))), folder


def test_chains_of_imports_are_short():
    longest = max(map(chain, MODULES), key=len)
    assert len(longest) <= CHAIN, longest
    for name in MODULES:
        within = chain(name, package(name))
        assert len(within) <= CHAIN_WITHIN, within

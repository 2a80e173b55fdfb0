"""Does the site of the documentation have every page, and the reference every public name?"""

from __future__ import annotations

from pathlib import Path

import yaml

import recbole_rawp

ROOT = Path(__file__).parent.parent
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def leaves(entry):
    """Yield the pages of a navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for value in entry.values() if isinstance(entry, dict) else entry:
            yield from leaves(value)


def test_every_page_is_in_the_navigation_once():
    pages = list(leaves(SITE["nav"]))
    docs = {path.name for kind in ("*.md", "*.ipynb") for path in (ROOT / "docs").glob(kind)}
    results = {f"results/{path.name}" for path in (ROOT / "results").glob("*.md")}
    assert len(pages) == len(set(pages)) and set(pages) == docs | results | {"index.md", "CHANGELOG.md"}


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for name in set(recbole_rawp.__all__) - {"compat"}:
        assert f"::: {getattr(recbole_rawp, name).__module__}.{name}\n" in page, name

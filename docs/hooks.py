"""Brings README and the pages of results into the site of the documentation, whose links then stay within it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)#:]+)(#[^)]*)?\)")
KINDS = (".md", ".png", ".csv", ".yaml")  # what a site shows; of the rest, and of folders, the name stays


def on_files(files: Files, config: Any) -> Files:
    """Add README as the first page, the changes, and what lies in results."""
    for file in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "results").glob("*"))):
        if file.suffix in KINDS:
            name = "index.md" if file.name == "README.md" else str(file.relative_to(ROOT))
            text = file.read_text(encoding="utf-8") if file.suffix == ".md" else file.read_bytes()
            files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead to where their pages are in the site; links to what is not there become names."""
    place = page.file.src_uri
    home = {"index.md": "", "CHANGELOG.md": "", "results": "results"}.get(place.split("/")[0], "docs")

    def moved(found: re.Match[str]) -> str:
        mark, text, target, anchor = found.groups()
        within = posixpath.normpath(posixpath.join(home, target))
        name = "index.md" if within == "README.md" else within.removeprefix("docs/")
        if files.get_file_from_path(name) is None:
            return found[0] if "/" not in target and target.endswith(".md") else text
        return f"{mark}[{text}]({posixpath.relpath(name, posixpath.dirname(place) or '.')}{anchor or ''})"

    return LINK.sub(moved, markdown)

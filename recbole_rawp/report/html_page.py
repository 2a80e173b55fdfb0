"""Makes one HTML file of a report that needs nothing else.

The same parts as report.md, in CommonMark with tables; HTML in them stays text, and so do links but those to files
beside the page. Pictures are embedded, as SVG where there is one beside the PNG. `page.html.j2` is the frame.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
SHORT = 24  # characters
NUMBER = re.compile(r"[-+<]?\d|n/a|nan|-$")
WARNING = "**Do not trust"


def scrolling(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Return the tag of a table, in a box in which wide ones scroll."""
    tag = renderer.renderToken(tokens, index, options, env)
    return f'<div class="scroll" tabindex="0">{tag}' if tokens[index].nesting == 1 else f"{tag}</div>\n"


def bold_alone(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Return the tag of **bold**; other marks are left as they stand: patterns (`a.*, b.*`) and names hold them."""
    token = tokens[index]
    return str(renderer.renderToken(tokens, index, options, env)) if token.markup == "**" else token.markup


MARKDOWN = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table").disable("autolink")
for kind, rule in {"table": scrolling, "em": bold_alone, "strong": bold_alone}.items():
    MARKDOWN.add_render_rule(f"{kind}_open", rule)
    MARKDOWN.add_render_rule(f"{kind}_close", rule)
TEMPLATES = Environment(
    loader=PackageLoader("recbole_rawp.report", ""), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)


def render(title: str, parts: Sequence[str], folder: Path) -> str:
    """Return the page: `parts` of Markdown, with the pictures that they name in `folder` inside."""
    tokens = MARKDOWN.parse("\n\n".join(parts))
    adapt(tokens, folder)
    ends = [i for i, token in enumerate(tokens) if token.level == 0 and token.nesting < 1]
    opening = ends[1] + 1 if len(ends) > 1 else len(tokens)  # the title, and the verdict
    headings = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    return TEMPLATES.get_template("page.html.j2").render(
        title=title,
        opening=html(tokens[:opening]),
        chapters=[(tokens[i].attrs["id"], html(tokens[i + 1 : i + 2])) for i in headings],
        rest=html(tokens[opening:]),
    )


def html(tokens: Sequence[Token]) -> Markup:
    """Return the HTML of tokens; their texts are escaped."""
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def adapt(tokens: Sequence[Token], folder: Path) -> None:
    """Give tokens, in place, what Markdown cannot say: anchors, classes, and pictures of `folder` that are inside."""
    tables = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[i + 1].content))
        elif token.type == "table_open":
            tables.append(i)
        elif token.type == "table_close":
            classify(tokens[tables.pop() : i])
        elif token.type == "inline":
            unlink(token.children or [], folder)
            shown = [embed(child, folder) for child in token.children or () if child.type == "image"]
            if shown == [True] and len(token.children or ()) == 1:  # a picture alone
                tokens[i - 1].tag = tokens[i + 1].tag = "figure"
            elif tokens[i - 1].type == "paragraph_open" and token.content.startswith(WARNING):
                tokens[i - 1].attrSet("class", "warning")


def unlink(tokens: Sequence[Token], folder: Path) -> None:
    """Let links, in place, be words but for those to a file in the folder: somebody's text may hold any."""
    address, inside = "", False
    for token in tokens:
        if token.type == "link_open":
            address = str(token.attrs["href"])
            inside = within(folder, address) is not None
        if token.type in ("link_open", "link_close") and not inside:
            token.content = f" ({address})" * (token.nesting < 0)
            token.type, token.tag, token.nesting = "text", "", 0


def within(folder: Path, address: str) -> Path | None:
    """Return the file in the folder, or in one below it, to which an address leads; None if there is none."""
    try:
        file = (folder / unquote(address)).resolve()
        return file if folder.resolve() in file.parents and file.is_file() else None
    except (OSError, ValueError):  # no name that a file can have
        return None


def embed(image: Token, folder: Path) -> bool:
    """Put the picture that an image names into it, under its words as they stand; tell whether there is one."""
    address = str(image.attrs["src"])
    source = within(folder, f"{address.rpartition('.')[0]}.svg") or within(folder, address)
    if source is None or source.suffix not in TYPES:
        image.type, image.content = "text", f"({image.content}: {unquote(address)} is missing)"
        return False
    data = base64.b64encode(source.read_bytes()).decode("ascii")
    image.attrs = {"alt": "", "src": f"data:{TYPES[source.suffix]};base64,{data}"}
    image.children = [Token("text", "", 0, content=image.content)]  # which become the alt
    return True


def classify(table: Sequence[Token]) -> None:
    """Give each cell of a table its class; a column of numbers is flush right."""
    rows: list[list[tuple[Token, str]]] = []
    for token, following in zip(table, table[1:]):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append((token, following.content))
    for column in zip(*rows):
        number = len(column) > 1 and all(NUMBER.match(text) for _, text in column[1:])
        for cell, text in column:
            if kind := kind_of(text, number):
                cell.attrSet("class", kind)


def kind_of(cell: str, number: bool) -> str:
    """Return how a cell is set: numbers flush right, short texts on one line, failures stand out."""
    if cell == "FAILED":
        return "failed"
    return "number" if number else "short" if len(cell) <= SHORT else ""


def anchor(text: str) -> str:
    """Return the name by which a heading can be linked."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")

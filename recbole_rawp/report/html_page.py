"""Makes one HTML file of a report that needs nothing else.

The same parts as report.md, in CommonMark with tables; HTML in them stays text, and so do links but those to files
beside the page. Pictures are embedded, as SVG where there is one beside the PNG. Where there is a figure of plotly's
beside it, a script puts that in the picture's place. `page.html.j2` is the frame; it lets no script run but these two.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from recbole_rawp.report.pictures.canvas import INTERACTIVE

FIGURE = "data-figure"
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
SHORT = 24  # characters
FOLDED = 12  # lines of a listing, from which on it is folded
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


def listing(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """Return a block of text that scrolls by keys, too; folded if it is long."""
    text, lines = renderer.fence(tokens, index, options, env), tokens[index].content.count("\n")
    text = text.replace("<pre>", '<pre tabindex="0">', 1)
    return f"<details><summary>{lines} lines</summary>\n{text}</details>\n" if lines >= FOLDED else text


MARKDOWN = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table").disable("autolink")
for kind, rule in {"table": scrolling, "em": bold_alone, "strong": bold_alone}.items():
    MARKDOWN.add_render_rule(f"{kind}_open", rule)
    MARKDOWN.add_render_rule(f"{kind}_close", rule)
MARKDOWN.add_render_rule("fence", listing)
TEMPLATES = Environment(
    loader=PackageLoader("recbole_rawp.report", ""), autoescape=True, trim_blocks=True, undefined=StrictUndefined
)


def render(title: str, parts: Sequence[str], folder: Path) -> str:
    """Return the page: `parts` of Markdown, with the pictures that they name in `folder` inside."""
    tokens = MARKDOWN.parse("\n\n".join(parts))
    adapt(tokens, folder)
    below = (i for i, token in enumerate(tokens) if token.level == 0 and token.tag in ("figure", "h2"))
    opening = next(below, len(tokens))  # the title, and the answer
    drawn = any(FIGURE in child.attrs for token in tokens for child in token.children or ())
    headings = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    return TEMPLATES.get_template("page.html.j2").render(
        title=title,
        scripts=scripts() if drawn else [],
        opening=html(tokens[:opening]),
        chapters=[(tokens[i].attrs["id"], html(tokens[i + 1 : i + 2])) for i in headings],
        rest=html(tokens[opening:]),
    )


@cache
def scripts() -> list[tuple[str, Markup]]:
    """Return the page's scripts, each after the hash by which a browser knows it: plotly, and the one that calls it."""
    from plotly.offline import get_plotlyjs

    texts = get_plotlyjs(), TEMPLATES.get_template("page.js").render().strip()
    return [(base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(), Markup(text)) for text in texts]


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
            token.children = [part for child in token.children or () for part in link(child, folder)]
            shown = [embed(child, folder) for child in token.children or () if child.type == "image"]
            if shown == [True] and len(token.children or ()) == 1:  # a picture alone
                tokens[i - 1].tag = tokens[i + 1].tag = "figure"
                tokens[i - 1].attrSet("tabindex", "0")  # it scrolls where the window is narrow, by keys, too
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


def link(child: Token, folder: Path) -> list[Token]:
    """Return the tokens of a part of a text: the name of a file in the folder is a link to it, and -> an arrow."""
    if child.type == "text":
        child.content = child.content.replace(" -> ", " \N{RIGHTWARDS ARROW} ")
    if child.type != "code_inline" or within(folder, child.content) is None:
        return [child]
    return [Token("link_open", "a", 1, attrs={"href": quote(child.content)}), child, Token("link_close", "a", -1)]


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
    figure = within(folder, f"{address.rpartition('.')[0]}{INTERACTIVE}")
    data = base64.b64encode(source.read_bytes()).decode("ascii")
    image.attrs = {"alt": "", "src": f"data:{TYPES[source.suffix]};base64,{data}"}
    if figure:
        image.attrs[FIGURE] = figure.read_text(encoding="utf-8")
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

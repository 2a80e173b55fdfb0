"""How does the report become one HTML file that needs nothing else?

The same parts as report.md, in the Markdown that they use: headings, tables, lists, fenced code, pictures, and in a
line **bold**, `code` and [links](x). Pictures are embedded, as SVG where there is one beside the PNG.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import unquote

IMAGE = re.compile(r"!\[(.*)\]\(([^)\s]+)\)")
TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
BAR = re.compile(r"(?<!\\)\|")
SHORT = 24  # characters
NUMBER = re.compile(r"[-+<]?\d|n/a|nan|-$")

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 4rem; background: #fff; color: #1a1a1a;
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1rem 0; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, li { max-width: 48rem; }
h1 + p { font-size: 1.1rem; background: #f1f5f9; border-left: 5px solid #0072B2; padding: .8rem 1rem; margin: 1rem 0; }
h1 + p.warning { background: #fff4ec; border-color: #D55E00; }
nav { font-size: .92rem; } nav a { display: inline-block; margin: 0 1rem .2rem 0; }
a { color: #00558a; }
figure { margin: 1.25rem 0; overflow-x: auto; } img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
@media (max-width: 40rem) { img { max-width: none; width: 40rem; } }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #555; vertical-align: bottom; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.short { white-space: nowrap; }
td.failed { font-weight: 700; color: #a33c00; }
code { font: .88em ui-monospace, Consolas, monospace; background: #f3f3f3; padding: .1em .25em; border-radius: 3px; }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.45; }
pre code { background: none; padding: 0; font-size: inherit; }
@media print { body { font-size: 10pt; max-width: none; padding: 0; } nav { display: none; }
  img { max-width: 100%; width: auto; }
  .scroll, pre { overflow: visible; } pre { white-space: pre-wrap; } table { font-size: 8pt; }
  th, td { padding: .15rem .3rem; } td.number, th.number, td.short { white-space: normal; }
  figure, tr, h1 + p { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""

FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def render(title: str, parts: Sequence[str], folder: Path) -> str:
    """Return the page: `parts` of Markdown, with the pictures that they name in `folder` inside."""
    lines = "\n\n".join(parts).splitlines()
    blocks = [block(lines, folder) for lines in split(lines)]
    chapters = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', "\n".join(blocks))
    links = " ".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in chapters)
    first = 2 if len(blocks) > 1 else len(blocks)  # the title, and the verdict
    body = [*blocks[:first], f'<nav aria-label="Contents">{links}</nav>', *blocks[first:]]
    return FRAME.format(title=escape(title), style=STYLE, body="\n".join(body))


def split(lines: Sequence[str]) -> Iterator[list[str]]:
    """Yield the lines of each block: what blank lines part, and fenced code as a whole."""
    found: list[str] = []
    for line in lines:
        fenced = bool(found) and found[0].startswith("```")
        if line.strip() or fenced:
            found.append(line)
        if found and ((not line.strip() and not fenced) or (fenced and line.startswith("```"))):
            yield found
            found = []
    if found:
        yield found


def block(lines: list[str], folder: Path) -> str:
    """Return the HTML of one block."""
    first = lines[0]
    if first.startswith("```"):
        return f"<pre><code>{escape(chr(10).join(lines[1:-1]))}</code></pre>"
    if heading := re.match(r"(#{1,3}) (.*)", first):
        level, text = len(heading[1]), heading[2]
        return f'<h{level} id="{anchor(text)}">{inline(text)}</h{level}>'
    if first.startswith("|"):
        return table(lines)
    if first.startswith("- "):
        return "<ul>" + "".join(f"<li>{inline(line.removeprefix('- '))}</li>" for line in lines) + "</ul>"
    if picture := IMAGE.fullmatch(first.strip()):
        return figure(picture[1], folder / unquote(picture[2]))
    warning = ' class="warning"' * first.startswith("**Do not trust")
    return f"<p{warning}>{inline(' '.join(lines))}</p>"


def inline(text: str) -> str:
    """Return the HTML of a line of text; what stands in `code` is left as it is."""
    pieces = re.split(r"`([^`]+)`", text)
    return "".join(f"<code>{escape(p)}</code>" if i % 2 else emphasis(escape(p)) for i, p in enumerate(pieces))


def emphasis(text: str) -> str:
    """Return escaped text with **bold** and [links](target) as HTML."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)


def table(lines: Sequence[str]) -> str:
    """Return the HTML of a Markdown table, wide ones scroll; a column of numbers is flush right."""
    header, _, *rows = ([cell.strip().replace("\\|", "|") for cell in BAR.split(line.strip())[1:-1]] for line in lines)
    numeric = [bool(rows) and all(NUMBER.match(row[i]) for row in rows if row[i:]) for i in range(len(header))]

    def cells(row: Sequence[str], tag: str) -> str:
        """Return the cells of a row as elements of the kind `tag`."""
        kinds = (kind_of(cell, number) for cell, number in zip(row, numeric))
        return "".join(
            f'<{tag} class="{kind}">{inline(cell)}</{tag}>' if kind else f"<{tag}>{inline(cell)}</{tag}>"
            for cell, kind in zip(row, kinds)
        )

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f'<div class="scroll" tabindex="0"><table>{head}\n<tbody>{body}</tbody></table></div>'


def kind_of(cell: str, number: bool) -> str:
    """Return how a cell is set: numbers flush right, short texts on one line, failures stand out."""
    if cell == "FAILED":
        return "failed"
    return "number" if number else "short" if len(cell) <= SHORT else ""


def figure(alt: str, path: Path) -> str:
    """Return a picture, embedded; one that is missing says so."""
    vector = path.with_suffix(".svg")
    source = vector if vector.exists() else path
    if not source.exists():
        return f"<p>({escape(alt)}: {escape(path.name)} is missing)</p>"
    data = base64.b64encode(source.read_bytes()).decode("ascii")
    return f'<figure><img alt="{escape(alt)}" src="data:{TYPES[source.suffix]};base64,{data}"></figure>'


def anchor(text: str) -> str:
    """Return the name by which a heading can be linked."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")

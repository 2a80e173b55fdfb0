"""The page says what report.md says, and needs nothing else."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from recbole_rawp.evaluation.records import Check
from recbole_rawp.report import html_page
from recbole_rawp.report.tables import coded, inert, markdown
from tests.test_report import measured, written

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Outline(HTMLParser):
    """The elements of a page, and whether each is closed in order."""

    EMPTY = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def html(tmp_path):
    (tmp_path / "curve.png").write_bytes(PIXEL)
    (tmp_path / "bars.png").write_bytes(PIXEL)
    (tmp_path / "curve.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    parts = [
        "# M on D under attack",
        "**plain** keeps 5% of <its> `a_b < c` & more.",
        "![curves](curve.png)",
        "## Table",
        "| defense   | radius 0   | seen   |\n|-----------|------------|--------|\n| `rawp`    | 0.2 (5%)   | FAILED |",
        "Words.\n\n![bars](bars.png)\n\n![lost](lost.png)",
        "## Settings",
        "```yaml\na: <1>\n\nb: **2**\n```",
        "- one\n- `two`",
    ]
    return html_page.render("M <on> D", parts, tmp_path)


def test_the_page_is_well_formed_and_has_title_language_and_viewport(html):
    outline = Outline(html)
    assert outline.of("html") == [{"lang": "en"}] and "<title>M &lt;on&gt; D</title>" in html
    assert any(meta.get("name") == "viewport" for meta in outline.of("meta"))


def test_nothing_is_fetched(html):
    outline = Outline(html)
    assert {attributes["src"].partition(":")[0] for attributes in outline.of("img")} == {"data"}
    assert all(attributes["href"].startswith("#") for attributes in outline.of("a"))
    assert not outline.of("link") and not outline.of("script")
    assert "url(" not in html and "@import" not in html and "http:" not in html and "https:" not in html


def test_pictures_are_embedded_with_their_words_as_svg_where_there_is_one(html, tmp_path):
    images = Outline(html).of("img")
    assert [image["alt"] for image in images] == ["curves", "bars"]
    assert images[0]["src"].startswith("data:image/svg+xml;base64,")
    assert base64.b64decode(images[1]["src"].partition(",")[2]) == PIXEL
    assert "lost.png is missing" in html


def test_a_picture_of_weights_that_a_pattern_names_is_embedded(tmp_path):
    (tmp_path / "curve.png").write_bytes(PIXEL)
    html = html_page.render("t", ["# t", "![NDCG@10: mlp.[01].*, row by row](curve.png)"], tmp_path)
    assert [image["alt"] for image in Outline(html).of("img")] == ["NDCG@10: mlp.[01].*, row by row"]


def test_text_is_escaped_and_marked_up(html):
    assert "<strong>plain</strong> keeps 5% of &lt;its&gt; <code>a_b &lt; c</code> &amp; more." in html
    assert "<li>one</li>\n<li><code>two</code></li>" in html


def test_a_blank_line_does_not_end_fenced_code(html):
    assert '<pre tabindex="0"><code class="language-yaml">a: &lt;1&gt;\n\nb: **2**\n</code></pre>' in html


def test_tables_scroll_have_headers_and_show_failures(html):
    tight = html.replace(">\n<", "><")
    assert '<div class="scroll" tabindex="0"><table><thead><tr><th class="short">defense</th>' in tight
    cells = '<td class="short"><code>rawp</code></td><td class="number">0.2 (5%)</td><td class="failed">FAILED</td>'
    assert cells in tight


def test_a_bar_in_a_name_ends_no_cell(tmp_path):
    written = markdown([["a|b", "0.5"], [r"c\d", "0.4"]], ["data|set", "score"])
    html = html_page.render("T", ["# T", written], tmp_path)
    assert re.findall("<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html) == ["data|set", "score", "a|b", "0.5", r"c\d", "0.4"]


def test_every_chapter_is_linked(html):
    outline = Outline(html)
    anchors = [attributes["id"] for attributes in outline.of("h2")]
    assert anchors == ["table", "settings"]
    assert [attributes["href"] for attributes in outline.of("a")] == [f"#{anchor}" for anchor in anchors]


def test_a_warning_stands_out(tmp_path):
    text = html_page.render("t", ["# t", "**Do not trust these numbers: 1 self-check failed**"], tmp_path)
    assert re.search(r'<p class="warning"><strong>Do not trust', text)


def test_html_stays_text_no_link_runs_code_and_nothing_from_elsewhere_is_shown(tmp_path):
    parts = ["# t", "<script>alert(1)</script> [a](javascript:alert(1)) ![b](https://x.org/b.png)", "<b>bold</b>"]
    outline = Outline(html_page.render("t", parts, tmp_path))
    assert not outline.of("script") and not outline.of("a") and not outline.of("img") and not outline.of("b")


HOSTILE = (
    "[x](javascript:alert(1)) [y](https://x.org)",
    "one\n\n# two\n<script>alert(1)</script>",
    "a\n```\n[z](https://x.org)\n<b>b</b>\n````\n[z]: https://x.org",
    "![p](https://x.org/p.png) <https://x.org> `code` ``[q](https://x.org)`",
    "\\`[x](https://x.org)` ![up](../secret.png) [%00](%00) [s](../secret.png)",
)


def test_what_somebody_wrote_is_no_link_no_heading_and_stays_in_its_block(tmp_path, monkeypatch):
    (tmp_path / "secret.png").write_bytes(PIXEL)
    settings = {f"key_{number}": text for number, text in enumerate(HOSTILE)}
    checks = [Check(text, text, "failed", text) for text in HOSTILE]
    facts = {"notes": HOSTILE, "settings": settings, "environment": HOSTILE[2]}
    text = written(tmp_path / "run", measured(), checks, **facts)
    tokens = html_page.MARKDOWN.parse(text)
    inline = [child for token in tokens for child in token.children or ()]
    assert not [token for token in inline if token.type == "link_open"]
    assert {token.attrs["src"] for token in inline if token.type == "image"} == {"robustness.png"}
    blocks = [token.content for token in tokens if token.type == "fence"]
    assert len(blocks) == 2 and blocks[1] == HOSTILE[2] + "\n" and blocks[0].count("\nkey_") == len(HOSTILE) - 1
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1
    assert len([token for token in tokens if token.type == "list_item_open"]) == len(HOSTILE)
    outline = Outline((tmp_path / "run/report.html").read_text())
    linked = {attributes["href"] for attributes in outline.of("a") if not attributes["href"].startswith("#")}
    assert linked and linked <= {path.name for path in (tmp_path / "run").iterdir()}
    assert len(outline.of("img")) == 1 and len(outline.of("script")) == 2 and not outline.of("b")


@pytest.mark.parametrize("text", HOSTILE)
def test_the_page_itself_links_to_files_beside_it_alone(text, tmp_path):
    (tmp_path / "secret.png").write_bytes(PIXEL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report.md").touch()
    html = html_page.render("t", ["# t", text, "[own](report.md)"], tmp_path / "run")
    links = [attributes["href"] for attributes in Outline(html).of("a")]
    assert [link for link in links if not link.startswith("#")] == ["report.md"] and not Outline(html).of("img")


def test_plain_words_are_not_changed_by_what_keeps_them_inert():
    for text in ("rawp [a run], 5 % < 6 %, `a[0](x)` and **b**", "[0.1, 0.2]", r"c\d"):
        assert inert(text) == text
    assert coded("a `b``c` d") == "``` a `b``c` d ```" and coded("a b") == "`a b`"


def test_names_and_patterns_are_shown_as_they_are_written(tmp_path):
    html = html_page.render("t", ["# t", "a.*, b.* of __init__ and *x*, **bold**"], tmp_path)
    assert "<p>a.*, b.* of __init__ and *x*, <strong>bold</strong></p>" in html

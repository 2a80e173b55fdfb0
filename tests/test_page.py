"""The page says what report.md says, and needs nothing else."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from recbole_rawp.report import html_page
from recbole_rawp.report.tables import markdown

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
    assert '<pre><code class="language-yaml">a: &lt;1&gt;\n\nb: **2**\n</code></pre>' in html


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


def test_names_and_patterns_are_shown_as_they_are_written(tmp_path):
    html = html_page.render("t", ["# t", "a.*, b.* of __init__ and *x*, **bold**"], tmp_path)
    assert "<p>a.*, b.* of __init__ and *x*, <strong>bold</strong></p>" in html

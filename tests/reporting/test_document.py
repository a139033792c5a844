"""Markdown and HTML say what they were given, whatever it holds; judged by parsers."""

from html.parser import HTMLParser

import pytest

from hypert5_jax.reporting.document import (
    Code,
    Grid,
    Heading,
    Items,
    Paragraph,
    Picture,
    markdown,
    page,
)

EVIL = (
    "a < b & c > d",
    "<script>alert(1)</script>",
    "pipes | and `ticks` and *stars* and _lines_",
    "[not](a-link) \\ ~gone~ &amp; ![x](y)",
    "\"quoted\" 'too'",
    "__init__ a_b_c _x_ under_ _score",
    r"a bar \| behind a backslash",
)
VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Cells and paragraphs as text; complains where tags do not close."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.texts, self.tags, self.images = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "p", "li", "h1", "figcaption"):
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "p", "li", "h1", "figcaption", "code"):
            self.texts[-1] += data


def parsed(html):
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("text", EVIL)
def test_html_gives_back_every_text(text):
    blocks = [
        Heading(1, text),
        Paragraph((text, Code(text))),
        Items([text]),
        Grid(["head"], [[text]]),
        Picture("a.png", text),
    ]
    reader = parsed(page(blocks))
    assert reader.texts == [text, text * 2, text, text, text]
    assert reader.images == [{"src": "a.png", "alt": text}]
    assert "script" not in reader.tags


@pytest.mark.parametrize("text", EVIL)
def test_markdown_gives_back_every_text(text):
    library = pytest.importorskip("markdown_it", reason="renders Markdown")
    blocks = [Paragraph((text, Code(text))), Grid(["head", "x"], [[text, Code(text)]])]
    render = library.MarkdownIt("commonmark").enable("table").render
    assert parsed(render(markdown(blocks))).texts == [text * 2, text, text]


def test_a_paragraph_that_begins_like_a_list_is_none():
    for text in ("# no heading", "3. no item", "- none", "> none", "+1.2 points"):
        assert markdown([Paragraph(text)]).startswith(("\\", "3\\"))


def test_columns_of_numbers_are_aligned_right():
    blocks = [Grid(["a", "b", "c"], [["x", "y", "1"]], left=2)]
    assert markdown(blocks).splitlines()[1] == "| --- | --- | ---: |"
    assert page(blocks).count('class="left"') == 4

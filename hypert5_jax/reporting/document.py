"""A report as blocks, and the same blocks as Markdown and as HTML.

A text is a string, a Code, or several of them; whatever it holds is escaped.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """Words to be typed or looked up as they are."""

    text: str


Text = str | Code | tuple[str | Code, ...]


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the document's title."""

    level: int
    text: Text


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: Text


@dataclass(frozen=True)
class Items:
    """A list, of one paragraph each."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Grid:
    """A table; `left` columns from the left are words, the others numbers."""

    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    left: int = 1


@dataclass(frozen=True)
class Picture:
    """An image beside the document."""

    file: str
    caption: str


Block = Heading | Paragraph | Items | Grid | Picture

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto;
  padding: 0 1em; color: #1b1f24; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #d5dae0; padding: .25em .6em; text-align: right;
  vertical-align: top; }
th { border-bottom-width: 2px; }
.left { text-align: left; }
code { background: #f1f3f5; padding: .1em .3em; border-radius: 3px; }
img { max-width: 100%; }
figcaption { color: #59636e; }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """The document as Markdown with tables."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_marked(text)}"
        case Paragraph(text):
            return _line_start(_marked(text))
        case Items(items):
            return "\n".join(f"* {_marked(item)}" for item in items)
        case Grid(head, rows, left):
            rule = ["---" if i < left else "---:" for i in range(len(head))]
            lines = [
                [_marked(cell, in_cell=True) for cell in row] for row in (head, *rows)
            ]
            lines.insert(1, rule)
            return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        case Picture(file, caption):
            return f"![{_marked(caption)}]({file})"


def _parts(text: Text) -> tuple[str | Code, ...]:
    return text if isinstance(text, tuple) else (text,)


def _marked(text: Text, in_cell: bool = False) -> str:
    return "".join(
        _marked_code(part.text, in_cell) if isinstance(part, Code) else _escaped(part)
        for part in _parts(text)
    )


def _escaped(text: str) -> str:
    """Plain words: nothing in them is a mark, a tag or an entity."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", " ".join(text.split("\n")))
    # Within a word an underscore is only itself.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _line_start(text: str) -> str:
    """No heading, list or quotation by accident."""
    return re.sub(r"^(\s*)([#+>-]|\d+[.)])", r"\1\\\2", text)


def _marked_code(text: str, in_cell: bool) -> str:
    """A code span that holds whatever it is given; a bar would end a table's cell."""
    text = " ".join(text.split("\n"))
    text = text.replace("|", r"\|") if in_cell else text
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def page(blocks: Sequence[Block]) -> str:
    """The document as one HTML page; its title is the first heading."""
    title = next((b.text for b in blocks if isinstance(b, Heading)), "")
    words = "".join(p.text if isinstance(p, Code) else p for p in _parts(title))
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(words)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_tagged(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_tagged(text)}</p>"
        case Items(items):
            lines = "\n".join(f"<li>{_tagged(item)}</li>" for item in items)
            return f"<ul>\n{lines}\n</ul>"
        case Grid(head, rows, left):
            body = "\n".join(_html_row("td", row, left) for row in rows)
            return f"<table>\n{_html_row('th', head, left)}\n{body}\n</table>"
        case Picture(file, caption):
            name, words = html.escape(file), html.escape(caption)
            return (
                f'<figure><img src="{name}" alt="{words}">'
                f"<figcaption>{words}</figcaption></figure>"
            )


def _html_row(tag: str, cells: Sequence[Text], left: int) -> str:
    marks = [' class="left"' if i < left else "" for i in range(len(cells))]
    parts = [f"<{tag}{m}>{_tagged(c)}</{tag}>" for m, c in zip(marks, cells)]
    return f"<tr>{''.join(parts)}</tr>"


def _tagged(text: Text) -> str:
    return "".join(
        f"<code>{html.escape(part.text)}</code>"
        if isinstance(part, Code)
        else html.escape(part)
        for part in _parts(text)
    )

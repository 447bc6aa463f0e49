"""A report as Markdown, with its figures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from kpeft.report.document import Block, Cell, Commands, Document, Points, Row, Section, Table, Text
from kpeft.report.pictures import names


def to_markdown(document: Document, pictures: str) -> str:
    """Returns the text.

    Args:
        document: The report.
        pictures: The folder of its figures, as a path from the text.
    """
    lines = [f"# {_text(document.title)}", "", *_paragraphs(document.lead)]
    paths = {figure: f"{pictures}/{name}" for figure, name in names(document).items()}
    for section in document.sections:
        lines += _section(section, 2, paths)
    return "\n".join(lines).rstrip("\n") + "\n"


def _paragraphs(texts: tuple[str, ...]) -> Iterator[str]:
    for text in texts:
        yield from (_text(text), "")


def _section(section: Section, level: int, paths: Mapping[int, str]) -> Iterator[str]:
    written = [line for block in section.blocks for line in _block(block, paths)]
    parts = [line for part in section.parts for line in _section(part, level + 1, paths)]
    if written or parts:
        yield from (f"{'#' * level} {_text(section.title)}", "", *written, *parts)


def _block(block: Block, paths: Mapping[int, str]) -> Iterator[str]:
    match block:
        case Text(text):
            yield from (_text(text), "")
        case Points(items):
            yield from (f"- {_text(item)}" for item in items)
            yield ""
        case Commands(lines):
            fence = "`" * max(3, *(len(ticks) + 1 for _, line in lines for ticks in re.findall("`+", line)), 0)
            commented = (f"{line}  # {' '.join(name.split())}" for name, line in lines)
            yield from (f"{fence}bash", *commented, fence, "")
        case Row(blocks):
            for each in blocks:
                if isinstance(each, Table):
                    yield from table_lines(each)
                else:
                    yield from (f"![{_text(each.title)}]({paths[id(each)]})", "", _text(each.caption), "")
        case Table():
            yield from table_lines(block)


def table_lines(table: Table) -> Iterator[str]:
    """Returns a table's lines."""
    yield from (f"{_text(table.caption)}:", "")
    yield _row(map(_text, table.columns))
    yield _row("---" for _ in table.columns)
    yield from (_row(map(_cell, row)) for row in table.rows)
    yield ""


def _row(texts: Iterator[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    return f"**{text}**" if cell.best else text


def _text(text: str) -> str:
    """What Markdown and HTML would take for signs of their own, kept as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#&])", r"\\\1", " ".join(text.split()))

"""What a report is made of: sections of tables, figures and text, the same for HTML and Markdown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        best: Whether it is the best of its column.
        shade: How much of it is coloured, 0 to 1.
    """

    text: str
    best: bool = False
    shade: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first cell of a row names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell, each with what it is for."""

    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture.

    Attributes:
        title: What is drawn.
        caption: What one must know to read it.
        svg: The drawing: the inside of an SVG element, with the colours of the page's style.
        size: Its width and height.
        key: What each line or bar stands for: (swatch in SVG, text).
        data: What is drawn, as a table.
    """

    title: str
    caption: str
    svg: str
    size: tuple[float, float]
    key: tuple[tuple[str, str], ...]
    data: Table


@dataclass(frozen=True)
class Row:
    """Small tables or figures beside each other where there is room."""

    blocks: tuple[Table | Figure, ...]


Block = Table | Text | Points | Commands | Row


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part under a heading.

    Attributes:
        title: The heading.
        blocks: What comes before the parts below it.
        parts: Sections one level down.
    """

    title: str
    blocks: tuple[Block, ...] = ()
    parts: tuple[Section, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report.

    Attributes:
        title: Its name.
        lead: Paragraphs before the first section.
        sections: One for each task, and others.
    """

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

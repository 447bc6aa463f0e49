"""The figures of a report as SVG files of their own, for Markdown: with their key, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from kpeft.files import write_bytes
from kpeft.report.document import Document, Figure, Row, Section
from kpeft.report.drawing import own_ids

STYLE = Path(__file__).with_name("style.css")
MARGIN, LINE, SIGN = 8.0, 15.0, 36.0  # the last two of the key: height of a line, width of its swatch
LETTER = 5.4  # a letter of the key is about so wide


def names(document: Document) -> dict[int, str]:
    """Returns a file name for each figure, by the figure's `id()`, in their order."""
    figures = [figure for section in document.sections for figure in _figures(section)]
    return {
        id(figure): f"{number:02d}-{re.sub(r'[^a-z0-9]+', '-', figure.title.lower()).strip('-')}.svg"
        for number, figure in enumerate(figures, 1)
    }


def write_pictures(document: Document, folder: Path) -> None:
    """Writes the figures of a report into a folder, and removes those of an older report."""
    wanted = names(document)
    for section in document.sections:
        for figure in _figures(section):
            write_bytes(folder / wanted[id(figure)], picture(figure).encode("utf-8", "replace"))
    for path in folder.glob("[0-9][0-9]-*.svg"):
        if path.name not in wanted.values():
            path.unlink()


def _figures(section: Section) -> Iterator[Figure]:
    for block in section.blocks:
        if isinstance(block, Row):
            yield from (each for each in block.blocks if isinstance(each, Figure))
    for part in section.parts:
        yield from _figures(part)


def picture(figure: Figure) -> str:
    """Returns a figure and its key as an SVG file."""
    width = max([figure.size[0], *(SIGN + LETTER * len(text) for _, text in figure.key)]) + 2 * MARGIN
    height = figure.size[1] + LINE * len(figure.key) + 2 * MARGIN
    colours = STYLE.read_text(encoding="utf-8").partition("* {")[0]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width * 1.5:g}" '
        f'height="{height * 1.5:g}" role="img">',
        f"<title>{escape(figure.title)}</title>",
        f"<style>\n{colours}</style>",
        f'<rect width="{width:g}" height="{height:g}" fill="var(--page)"/>',
        f'<svg x="{MARGIN:g}" y="{MARGIN:g}" width="{figure.size[0]:g}" height="{figure.size[1]:g}">{figure.svg}</svg>',
    ]
    for number, (sign, text) in enumerate(figure.key):
        top = MARGIN + figure.size[1] + LINE * number
        place = f'x="{MARGIN:g}" y="{top:g}" width="{SIGN:g}" height="{LINE - 2:g}"'
        lines.append(own_ids(sign, f"key-{number}").replace('class="swatch"', place))
        lines.append(
            f'<text x="{MARGIN + SIGN + 4:g}" y="{top + LINE - 5:g}" fill="var(--ink)" '
            f'style="font: 10px system-ui, sans-serif">{escape(text)}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"

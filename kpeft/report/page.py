"""A report as one HTML page: no scripts, nothing from a network, light and dark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from kpeft.report.document import Block, Cell, Commands, Document, Figure, Points, Row, Section, Table, Text
from kpeft.report.drawing import own_ids

_NUMBER = re.compile(r"-$|[-+]?[\d.,]+(e[-+]?\d+)?[%kMG]?($| ±| \()")


def to_html(document: Document) -> str:
    """Returns the page."""
    return "\n".join(_Page(document).lines()) + "\n"


class _Page:
    """Writes one page; identifiers are numbered in its order."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._number = 0

    def lines(self) -> Iterator[str]:
        title = escape(self._document.title)
        css = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
        yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
        yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
        yield '<meta name="color-scheme" content="light dark">'
        # The page itself says that it loads nothing, and browsers hold it to that.
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        yield f"<title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>"
        yield '<a class="skip" href="#main">Skip to the results</a>'
        yield f"<header>\n<h1>{title}</h1>"
        yield from (f"<p>{escape(text)}</p>" for text in self._document.lead)
        yield "</header>"
        yield from self._contents()
        yield '<main id="main" tabindex="-1">'
        for number, section in enumerate(self._document.sections, 1):
            yield from self._section(section, 2, f"section-{number}")
        yield "</main>\n</body>\n</html>"

    def _contents(self) -> Iterator[str]:
        yield '<nav aria-label="Sections">\n<ul>'
        for number, section in enumerate(self._document.sections, 1):
            parts = "".join(
                f'<li><a href="#section-{number}-{part}">{escape(each.title)}</a></li>'
                for part, each in enumerate(section.parts, 1)
            )
            inner = f"<ul>{parts}</ul>" if parts else ""
            yield f'<li><a href="#section-{number}">{escape(section.title)}</a>{inner}</li>'
        yield "</ul>\n</nav>"

    def _section(self, section: Section, level: int, name: str) -> Iterator[str]:
        yield f'<section>\n<h{level} id="{name}">{escape(section.title)}</h{level}>'
        for block in section.blocks:
            yield from self._block(block)
        for number, part in enumerate(section.parts, 1):
            yield from self._section(part, level + 1, f"{name}-{number}")
        yield "</section>"

    def _block(self, block: Block) -> Iterator[str]:
        match block:
            case Text(text):
                yield f"<p>{escape(text)}</p>"
            case Points(items):
                yield "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
            case Commands(lines):
                commands = "".join(f"<li>{escape(name)}: <code>{_flags(line)}</code></li>" for name, line in lines)
                yield f'<ul class="commands">{commands}</ul>'
            case Row(blocks):
                yield '<div class="row">'
                for each in blocks:
                    yield from self._figure(each) if isinstance(each, Figure) else self._table(each)
                yield "</div>"
            case Table():
                yield from self._table(block)

    def _new_id(self) -> str:
        self._number += 1
        return f"block-{self._number}"

    def _table(self, table: Table) -> Iterator[str]:
        name = self._new_id()
        yield f'<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">\n<table>'
        yield f'<caption id="{name}">{escape(table.caption)}</caption>'
        numbers = [all(_NUMBER.match(row[n].text) for row in table.rows) for n in range(len(table.columns))]
        kinds = [' class="number"' if n and number else "" for n, number in enumerate(numbers)]
        heads = zip(kinds, table.columns, strict=True)
        yield "<thead><tr>" + "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in heads)
        yield "</tr></thead>\n<tbody>"
        for row in table.rows:
            cells = "".join(_cell(cell, kind) for kind, cell in zip(kinds[1:], row[1:], strict=True))
            yield f'<tr><th scope="row">{escape(row[0].text)}</th>{cells}</tr>'
        yield "</tbody>\n</table>\n</div>"

    def _figure(self, figure: Figure) -> Iterator[str]:
        name = self._new_id()
        width, height = figure.size
        yield f"<figure>\n<figcaption><strong>{escape(figure.title)}.</strong> {escape(figure.caption)}</figcaption>"
        yield (
            f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-labelledby="{name}-title" aria-describedby="{name}-desc">'
        )
        yield f'<title id="{name}-title">{escape(figure.title)}</title>'
        yield f'<desc id="{name}-desc">{escape(figure.caption)} The table below holds the numbers.</desc>'
        yield f"{own_ids(figure.svg, name)}</svg>"
        if figure.key:
            yield (
                '<ul class="key">'
                + "".join(
                    f"<li>{own_ids(s, f'{name}-{n}')} {escape(text)}</li>" for n, (s, text) in enumerate(figure.key)
                )
                + "</ul>"
            )
        yield "<details>\n<summary>The numbers</summary>"
        yield from self._table(figure.data)
        yield "</details>\n</figure>"


def _cell(cell: Cell, kind: str) -> str:
    text = escape(cell.text)
    if cell.best:
        text = f'<strong>{text}</strong><span class="unseen"> (best)</span>'
    shade = f' style="--shade: {cell.shade:.0%}"' if cell.shade else ""
    return f"<td{kind}{shade}>{text}</td>"


def _flags(line: str) -> str:
    """A command whose lines are broken before flags only, where that is possible."""
    return " ".join(f"<span>{escape(part)}</span>" for part in re.split(r" (?=--)", line))

"""The table that answers what runs were made for: written beside them by whoever makes them, first in the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kpeft.files import write_json
from kpeft.report.document import Cell, Table

ANSWER = "answer.json"


def write_answer(folder: Path, table: Table) -> None:
    """Writes answer.json."""
    rows = [[cell.text for cell in row] for row in table.rows]
    write_json(folder / ANSWER, {"caption": table.caption, "columns": list(table.columns), "rows": rows})


def read_answer(folder: Path) -> Table | None:
    """Reads answer.json; `None` where there is none.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        value = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
        caption, columns, rows = value["caption"], value["columns"], value["rows"]
        if isinstance(caption, str) and all(_is_line(each, len(columns)) for each in (columns, *rows)):
            return table_of(caption, columns, rows)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{ANSWER} cannot be read: {error!r}") from error
    raise ValueError(f"{ANSWER} is no table: a caption, columns and rows of as many texts.")


def table_of(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Returns a table of plain texts."""
    return Table(caption=caption, columns=tuple(columns), rows=tuple(tuple(map(Cell, row)) for row in rows))


def _is_line(texts: object, length: int) -> bool:
    return isinstance(texts, list) and len(texts) == length and all(isinstance(text, str) for text in texts)

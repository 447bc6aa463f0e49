"""GLUE's rows from a folder of its TSV files, such as GLUE's download script makes (`MRPC/train.tsv` …)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from kpeft.glue.rows import HIDDEN, Rows, Source, check_split, label_dtype
from kpeft.glue.tasks import Task
from kpeft.glue.tsv_columns import LAYOUTS, Layout

_Lines = list[tuple[int, list[str]]]
"""Line numbers, from 1, and the fields of each line."""


@final
class TsvSource(Source):
    r"""Rows of TSV files: task folder and file by name, columns by the header line.

    A field is what stands between tabs: quote characters are text, nothing is escaped (csv.QUOTE_NONE). Lines end in
    `\n` or `\r\n`, and the last need not end. A byte order mark is passed over. Labels are class names or indices.

    Args:
        folder: Holds one folder for each task, named as GLUE does (`SST-2`) or as the task (`sst2`).

    Raises:
        ValueError: If it is not a folder.
    """

    name: ClassVar[str] = "tsv"

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise ValueError(
                f"--data-dir must be a folder that holds MRPC/train.tsv and so on. Received: {str(folder)!r}"
            )

    def rows(self, task: Task, split: str) -> Rows:
        """Reads one split; see `Source.rows`.

        The labels of a test split are hidden unless its file has them, as `MRPC/msr_paraphrase_test.txt` does.

        Raises:
            ValueError: If the folder, the file or a column is missing, a line has too many or too few fields, a label
                is unknown, there are no rows, or the file is not UTF-8. Names file, line and what was found.
        """
        check_split(task, split)
        layout = LAYOUTS[task.name]
        path = _find_file(_find_folder(self.folder, task, layout), task, layout, split)
        header, lines = _split_header(path, _read_lines(path), layout)
        columns = [_require_column(path, header, names) for names in layout.texts]
        hidden = split in task.test.values()
        label = _find_column(header, layout.label) if hidden else _require_column(path, header, layout.label)
        lines = _check_fields(path, header, lines, layout)
        if not lines:
            raise ValueError(f"{path}: the {split} split is empty; it needs at least one row below its header.")
        labels = [HIDDEN] * len(lines) if label is None else _parse_labels(path, lines, label, task, hidden)
        return Rows(
            texts=tuple([cells[column] for _, cells in lines] for column in columns),
            labels=np.asarray(labels, label_dtype(task)),
        )


def _find_folder(parent: Path, task: Task, layout: Layout) -> Path:
    names = {name.lower() for name in (*layout.folders, task.name)}
    for path in sorted(parent.iterdir()):
        if path.name.lower() in names and path.is_dir():
            return path
    above = f"give the folder above it, {parent.absolute().parent}. " if parent.absolute().name.lower() in names else ""
    raise ValueError(f"{parent} has no folder {layout.folders[0]} for {task.name}; {above}Found: {_listing(parent)}")


def _find_file(folder: Path, task: Task, layout: Layout, split: str) -> Path:
    names = layout.files(split)
    for path in (folder / name for name in names):
        if path.is_file():
            return path
    raise ValueError(
        f"{folder} has no {' or '.join(names)}, the {split} split of {task.title}. Found: {_listing(folder)}"
    )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more if names else "nothing"


def _read_lines(path: Path) -> _Lines:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8; save the file as UTF-8. "
            f"Received: byte 0x{data[error.start]:02x} at offset {error.start}"
        ) from error
    # str.splitlines would also split at the rarer separators that GLUE's sentences hold.
    lines = (line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line]


def _split_header(path: Path, lines: _Lines, layout: Layout) -> tuple[Sequence[str], _Lines]:
    if not lines:
        raise ValueError(f"{path}: the file is empty; its first line must name the columns.")
    first = lines[0][1]
    if len(first) == len(layout.headless) and not set(first) & {name for names in layout.texts for name in names}:
        return layout.headless, lines
    return first, lines[1:]


def _find_column(header: Sequence[str], names: tuple[str, ...]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _require_column(path: Path, header: Sequence[str], names: tuple[str, ...]) -> int:
    column = _find_column(header, names)
    if column is None:
        wanted = " or ".join(map(repr, names))
        raise ValueError(f"{path}, line 1: no column {wanted}. Found: {', '.join(map(repr, header))}")
    return column


def _check_fields(path: Path, header: Sequence[str], lines: _Lines, layout: Layout) -> _Lines:
    ragged = [(number, cells) for number, cells in lines if len(cells) != len(header)]
    if not ragged:
        return lines
    number, cells = ragged[0]
    if not layout.ragged_lines:
        raise ValueError(
            f"{path}, line {number}: a row has {len(header)} tab-separated fields ({', '.join(header)}). "
            f"Received: {len(cells)}"
        )
    warnings.warn(f"{path}: left out {len(ragged)} broken lines, the first is line {number}", stacklevel=3)
    return [line for line in lines if len(line[1]) == len(header)]


def _parse_labels(path: Path, lines: _Lines, column: int, task: Task, hidden: bool) -> list[float]:
    indices: dict[str, float] = {word: index for index, word in enumerate(task.labels)}
    indices |= {str(index): index for index in range(len(task.labels))}
    if hidden:
        indices[str(HIDDEN)] = HIDDEN

    def parse(number: int, text: str) -> float:
        value = indices.get(text)
        if value is None and task.regression:
            value = _score(text)
        if value is None:
            expected = "a number from 0 to 5" if task.regression else " or ".join(indices)
            raise ValueError(f"{path}, line {number}: a label of {task.title} is {expected}. Received: {text!r}")
        return value

    return [parse(number, cells[column].strip()) for number, cells in lines]


def _score(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= 5 else None

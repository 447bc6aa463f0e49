"""What every source of GLUE rows gives: texts and labels of one split."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kpeft.glue.tasks import Task

HIDDEN = -1
"""Label of a row whose label is not public."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The rows of one split, column by column.

    Attributes:
        texts: One list of strings for each of the task's fields, all of the same length.
        labels: Labels, shape (rows,): int32 class indices, or float32 scores for regression; -1 where hidden.
    """

    texts: tuple[list[str], ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.texts} | {len(self.labels)}
        assert len(lengths) == 1, f"columns of different lengths: {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, limit: int | None) -> Rows:
        """Returns the first `limit` rows, or all of them for `None`."""
        return Rows(texts=tuple(column[:limit] for column in self.texts), labels=self.labels[:limit])

    def take(self, chosen: np.ndarray) -> Rows:
        """Returns the rows that a mask, shape (rows,), chooses, in their order."""
        return Rows(
            texts=tuple(list(itertools.compress(column, chosen)) for column in self.texts), labels=self.labels[chosen]
        )


class Source(ABC):
    """A place that GLUE rows come from.

    Attributes:
        name: What a result file calls it.
    """

    name: ClassVar[str]

    @abstractmethod
    def rows(self, task: Task, split: str) -> Rows:
        """Returns the rows of one split in the order of GLUE's own files.

        Args:
            task: The task.
            split: One of `task.splits`.

        Raises:
            ValueError: If the split does not exist or its rows cannot be read.
        """


def label_dtype(task: Task) -> type[np.number]:
    """Returns float32 for a regression task, int32 for classes."""
    return np.float32 if task.regression else np.int32


def check_split(task: Task, split: str) -> None:
    """Raises ValueError unless `split` is one of the task's."""
    if split not in task.splits:
        raise ValueError(f"{task.title} has the splits {', '.join(task.splits)}. Received: split={split!r}")

"""The bundled sample: rows made up for every GLUE task, so that a run needs no download; they are no benchmark.

The same seed gives the same rows on every machine. No row is in two splits, and labels are balanced.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import ClassVar, final

import numpy as np

from kpeft.glue import sample_pairs, sample_sentences
from kpeft.glue.rows import HIDDEN, Rows, Source, check_split, label_dtype
from kpeft.glue.tasks import Task

ROWS = {"train": 1000, "validation": 400, "test": 200}
"""Rows of a split, by the first part of its name."""

Texts = tuple[str, ...]

_MAKERS: dict[str, Callable[[Random, int], Texts]] = {
    "cola": sample_sentences.cola,
    "sst2": sample_sentences.sst2,
    "mrpc": sample_pairs.mrpc,
    "qqp": sample_pairs.qqp,
    "mnli": sample_pairs.mnli,
    "qnli": sample_sentences.qnli,
    "rte": sample_pairs.rte,
    "wnli": sample_sentences.wnli,
    "ax": sample_pairs.mnli,
}


@final
class SampleSource(Source):
    """Rows from a small grammar of English: who did what to whom, told in different words.

    For `mrpc` and `rte` neither words nor the overlap of the two sentences tell the classes apart; synonyms, voice,
    roles and denial do.

    Args:
        seed: Another seed gives other rows of the same kind.
    """

    name: ClassVar[str] = "sample"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def rows(self, task: Task, split: str) -> Rows:
        """Makes one split; see `Source.rows`. Test labels are hidden, as in GLUE."""
        check_split(task, split)
        rng = Random(f"kpeft/{task.name}/{self.seed}")
        seen: set[Texts] = set()
        for name in task.splits:
            texts, labels = _make(rng, task, name, ROWS[name.split("_")[0]], seen)
            if name == split:
                break
        if split in task.test.values():
            labels = [HIDDEN] * len(labels)
        columns = tuple([row[index] for row in texts] for index in range(len(task.fields)))
        return Rows(texts=columns, labels=np.asarray(labels, label_dtype(task)))


def _make(rng: Random, task: Task, split: str, count: int, seen: set[Texts]) -> tuple[list[Texts], list[float]]:
    """Makes rows that are not yet in `seen`, and adds them to it; labels take turns."""
    texts: list[Texts] = []
    labels: list[float] = []
    while len(texts) < count:
        label: float = len(texts) % task.num_classes
        if task.regression:
            row, label = sample_pairs.stsb(rng)
        elif split.endswith("mismatched"):
            row = sample_pairs.mnli(rng, int(label), reported=True)
        else:
            row = _MAKERS[task.name](rng, int(label))
        if row not in seen:
            seen.add(row)
            texts.append(row)
            labels.append(label)
    return texts, labels

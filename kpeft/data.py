"""The rows of a run as token ids: what is trained on, what is evaluated, and what decides the best evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kpeft.backbones.loading import Backbone, check_max_length, check_virtual_tokens
from kpeft.config import DataConfig
from kpeft.glue.rows import HIDDEN, Rows
from kpeft.glue.sources import Source
from kpeft.glue.tasks import Task
from kpeft.glue.tokens import EncodedRows, encode

HOLDOUT = "holdout"
"""Prefix of the metrics of training rows that were held out."""
_HOLDOUT_SEED = 0  # the same rows whatever the run's seed, so that the seeds' scores differ by training alone


@dataclass(frozen=True)
class Data:
    """The rows of a run as token ids.

    Attributes:
        source: Name of where they come from.
        train: Training rows, or `None` for a task that has none.
        validation: Rows of the split that scores are of, by the prefix of their metrics.
        holdout: Training rows that are not trained on and decide the best evaluation, or `None`.
        unlabelled: Rows to predict, for a task that has only those.
    """

    source: str
    train: EncodedRows | None
    validation: Mapping[str, EncodedRows]
    holdout: EncodedRows | None
    unlabelled: EncodedRows | None

    @property
    def evaluated(self) -> Mapping[str, EncodedRows]:
        """All rows that are evaluated, by the prefix of their metrics."""
        return self.validation if self.holdout is None else {**self.validation, HOLDOUT: self.holdout}


def load_data(task: Task, source: Source, backbone: Backbone, config: DataConfig, virtual: int) -> Data:
    """Reads and tokenises all rows of a run, cut so that they leave the method `virtual` of the model's positions.

    Raises:
        ValueError: If there are too few positions or rows, or the split to evaluate has no public labels.
    """
    check_max_length(backbone, config.max_length)
    check_virtual_tokens(backbone, virtual)
    max_length = min(config.max_length, backbone.max_length - virtual)

    def encoded(rows: Rows) -> EncodedRows:
        return encode(rows, backbone.tokenizer, max_length)

    if task.train is None:
        unlabelled = encoded(source.rows(task, task.test[""]))
        return Data(source=source.name, train=None, validation={}, holdout=None, unlabelled=unlabelled)
    rows, held = source.rows(task, task.train), None
    if config.holdout is not None:
        chosen = _held_out(len(rows), config.holdout)
        rows, held = rows.take(~chosen), rows.take(chosen)
    splits = task.validation if config.split == "validation" else task.test
    evaluated = {prefix: source.rows(task, split) for prefix, split in splits.items()}
    if any((each.labels == HIDDEN).any() for each in evaluated.values()):
        raise ValueError(
            f"--split {config.split} needs labels, and those of {task.title} are not public in this source "
            f"({source.name}). Take --split validation, or for MRPC a --data-dir with msr_paraphrase_test.txt."
        )
    train = encoded(rows.head(config.limit))
    holdout = None if held is None else encoded(held)
    validation = {prefix: encoded(rows) for prefix, rows in evaluated.items()}
    return Data(source=source.name, train=train, validation=validation, holdout=holdout, unlabelled=None)


def _held_out(rows: int, holdout: float) -> np.ndarray:
    """Returns which of a number of training rows are held out."""
    count = round(rows * holdout) if holdout < 1 else int(holdout)
    if not 0 < count < rows:
        raise ValueError(f"--holdout {holdout:g} leaves no rows on one side: there are {rows} training rows.")
    chosen = np.zeros(rows, bool)
    chosen[np.random.default_rng(_HOLDOUT_SEED).permutation(rows)[:count]] = True
    return chosen


def selection(task: Task, data: Data) -> Callable[[Mapping[str, float]], float]:
    """Returns what decides the best evaluation: the task's own metric, on the rows held out if there are any."""
    if data.holdout is None:
        return task.selection_score
    # MNLI's choice names the first of its two validation sets.
    plain = replace(task, selection=tuple(name.rpartition("/")[2] for name in task.selection))

    def score(metrics: Mapping[str, float]) -> float:
        prefix = f"{HOLDOUT}/"
        return plain.selection_score({k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)})

    return score

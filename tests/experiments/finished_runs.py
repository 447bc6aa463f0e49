"""Results of a recipe's runs, written by hand."""

from __future__ import annotations

from report_folders import result_of

from experiments.recipe import Run
from kpeft.results import Score


def write_result(run: Run, **metrics: float) -> None:
    score = Score(step=1, epoch=1.0, metrics=metrics)
    timing = {"train_examples_per_second": 10.0, "train_seconds": 20.0}
    result_of(run.config(), score, score, trainable=1234, timing=timing, rows=408).write(run.folder)

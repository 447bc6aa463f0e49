"""The table of a recipe that varies one thing: a row for each sweep, a column for each value."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from experiments.recipe import Run
from kpeft.glue.tasks import get_task
from kpeft.report.answer import table_of
from kpeft.report.document import Table
from kpeft.report.groups import spread
from kpeft.report.tables import spread_text
from kpeft.results import FILE, RunResult, read_result

Summary = Callable[[argparse.Namespace, Mapping[str, Sequence[Run]]], Table]


def pivot(option: str) -> Summary:
    """Returns a recipe's summary: of each sweep the score after the last step by the value of an option.

    The score is the first metric that the task selects by. Sweeps without the option have a column of their own.

    Args:
        option: `"learning_rate"` or `"rank"`.
    """

    def summary(_: argparse.Namespace, runs: Mapping[str, Sequence[Run]]) -> Table:
        values = {run.own.get(option) for sweep in runs.values() for run in sweep}
        columns = sorted(values, key=lambda value: -1.0 if value is None else value)
        rows = []
        for name, sweep in runs.items():
            metric = get_task(sweep[0].config().task).selection[0]
            cells = [[run for run in sweep if run.own.get(option) == value] for value in columns]
            rows.append([name, metric.replace("_", " "), *(_score(cell, metric) for cell in cells)])
        what = option.replace("_", " ")
        heads = [f"no {what}" if value is None else f"{value:g}" for value in columns]
        return table_of(f"Score after the last step by {what}, means over seeds", ["runs", "metric", *heads], rows)

    return summary


def _score(runs: Sequence[Run], metric: str) -> str:
    results = [read_result(run.folder) for run in runs if (run.folder / FILE).exists()]
    return spread_text(spread(_last(result, metric) for result in results), len(runs), "{:.3f}".format)


def _last(result: RunResult, metric: str) -> float | None:
    return result.last.metrics.get(metric) if result.last is not None else None

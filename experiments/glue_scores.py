"""Published GLUE scores beside those of some runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from kpeft.glue.tasks import get_task
from kpeft.report.answer import table_of
from kpeft.report.document import Table
from kpeft.report.tables import NONE
from kpeft.results import FILE, RunResult, read_result

# Hu et al., 2021, https://arxiv.org/abs/2106.09685, table 2, RoBERTa-base: MNLI overall accuracy, CoLA Matthews
# correlation, STS-B Pearson, others accuracy.
PUBLISHED = {
    "full": {
        "mnli": 0.876,
        "sst2": 0.948,
        "mrpc": 0.902,
        "cola": 0.636,
        "qnli": 0.928,
        "qqp": 0.919,
        "rte": 0.787,
        "stsb": 0.912,
    },
    "bitfit": {
        "mnli": 0.847,
        "sst2": 0.937,
        "mrpc": 0.927,
        "cola": 0.620,
        "qnli": 0.918,
        "qqp": 0.840,
        "rte": 0.815,
        "stsb": 0.908,
    },
    "lora": {
        "mnli": 0.875,
        "sst2": 0.951,
        "mrpc": 0.897,
        "cola": 0.634,
        "qnli": 0.933,
        "qqp": 0.908,
        "rte": 0.866,
        "stsb": 0.915,
    },
}
METRICS = {"cola": "matthews_correlation", "stsb": "pearson"}


def table(sweeps: Mapping[str, list[Path]], protocol: str) -> Table:
    """Returns a row for each task and method that has a result.

    Args:
        sweeps: The folders of the seeds' runs by `TASK-METHOD`.
        protocol: `"paper"`: median; else mean. Both are of each run's best evaluation: on the validation rows
            themselves with `"paper"`, on rows held out of the training split else.
    """
    name_of_middle, middle = ("median", statistics.median) if protocol == "paper" else ("mean", statistics.mean)
    rows = []
    for name, folders in sweeps.items():
        results = [read_result(folder) for folder in folders if (folder / FILE).exists()]
        if not results:
            continue
        task, _, method = name.partition("-")
        ours = middle([score(result) for result in results])
        published = PUBLISHED.get(method, {}).get(task)
        cells = [
            *(task, method, results[0].preset, str(len(results)), METRICS.get(task, "accuracy"), f"{ours:.3f}"),
            *((NONE, NONE) if published is None else (f"{published:.3f}", f"{ours - published:+.3f}")),
            baseline(task, results, middle),
        ]
        rows.append(cells)
    columns = ("task", "method", "preset", "seeds", "metric", f"ours, {name_of_middle}", "published, RoBERTa-base")
    caption = f"Protocol {protocol}, of each run's best evaluation"
    return table_of(caption, (*columns, "difference", "class baseline"), rows)


def score(result: RunResult) -> float:
    """The metric of LoRA's table: MNLI's is over both validation sets."""
    metrics = _best(result)
    if result.task == "mnli":  # of 9,815 and 9,832 rows
        return (metrics["matched/accuracy"] + metrics["mismatched/accuracy"]) / 2
    return metrics[METRICS.get(result.task, "accuracy")]


def baseline(task: str, results: list[RunResult], middle: Callable[[list[float]], float]) -> str:
    """Says of each of the task's baselines whether the mean or median reaches it."""
    said = []
    for metric, least in get_task(task).baseline.items():
        ours = middle([_best(result)[metric] for result in results])
        said.append(f"{metric} {ours:.3f} {'≥' if ours >= least else '<'} {least:g}")
    return ", ".join(said)


def _best(result: RunResult) -> Mapping[str, float]:
    assert result.best is not None
    return result.best.metrics

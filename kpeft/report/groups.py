"""Runs that differ in nothing but the seed, and what tells the groups of a task apart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kpeft.glue.tasks import TASKS, Task, get_task
from kpeft.report.collect import Run
from kpeft.report.options import UNSET, option_text, options_of, sortable
from kpeft.results import Score

Evaluation = Literal["last", "best"]
PATHS = ("data_dir", "tfds_dir", "text")
"""Options that say where rows and text lie, not which they are."""
RUNS_OF_OTHERS = ("adapter", "teacher")
"""Options that name another run by its folder."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (over n - 1) of some values; of one value there is no deviation."""

    mean: float
    std: float | None
    count: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Returns mean and deviation of the values that are there; `None` where none is."""
    there = [float(value) for value in values if value is not None]
    if not there:
        return None
    return Spread(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one configuration and several seeds.

    Attributes:
        key: The configuration but for the seed, as text.
        runs: In the order of seeds.
        options: Every option by (scope, name); the scope is the method whose field it is, or "".
    """

    key: str
    runs: tuple[Run, ...]
    options: Mapping[tuple[str, str], str]

    @property
    def task(self) -> Task:
        return get_task(self.runs[0].result.task)

    @property
    def method(self) -> str:
        return self.runs[0].result.method

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.result.seed for run in self.runs)

    def option(self, name: str) -> str | None:
        """Returns an option's value, whichever part of the method it belongs to."""
        return next((value for (_, each), value in self.options.items() if each == name), None)

    def metric(self, name: str, evaluation: Evaluation) -> Spread | None:
        """Returns a metric over the runs that have it."""
        scores = (score_of(run, evaluation) for run in self.runs)
        return spread(score.metrics.get(name) for score in scores if score)

    def own_score(self, evaluation: Evaluation) -> Spread | None:
        """Returns the score that selects the task's best evaluation."""
        return spread(own_score(run, evaluation) for run in self.runs)

    def timing(self, name: str) -> Spread | None:
        return spread(run.result.timing.get(name) for run in self.runs)


def is_sample(run: Run) -> bool:
    """Whether a run's rows are the made-up ones."""
    return run.result.data.get("source") == "sample"


def has_holdout(run: Run) -> bool:
    """Whether training rows that were held out chose a run's best evaluation."""
    return run.result.config["data"].get("holdout") is not None


def score_of(run: Run, evaluation: Evaluation) -> Score | None:
    """Returns the evaluation that is shown of a run."""
    return run.result.last if evaluation == "last" else run.result.best


def own_score(run: Run, evaluation: Evaluation) -> float | None:
    """Returns the task's own score of a run; `None` where a metric of it is missing."""
    score, task = score_of(run, evaluation), get_task(run.result.task)
    if score is None or any(name not in score.metrics for name in task.selection):
        return None
    return task.selection_score(score.metrics)


def own_name(task: Task) -> str:
    """Says what the task's own score is."""
    names = " and ".join(name.replace("_", " ") for name in task.selection)
    return f"mean of {names}" if len(task.selection) > 1 else names


def group(runs: Iterable[Run], *, without: Sequence[str] = (), given: Sequence[str] = ()) -> list[Group]:
    """Puts runs together whose configurations are equal but for the seed.

    Args:
        runs: Any runs.
        without: Further options that may differ.
        given: Options of which only counts whether there is a value.

    Returns:
        The groups by task, in the order of GLUE's tasks, then method, then options.
    """
    found: dict[str, list[Run]] = {}
    options: dict[str, dict[tuple[str, str], Any]] = {}
    for run in runs:
        flat = {name: value for name, value in options_of(run.result).items() if name[1] not in without}
        flat |= {name: value is not None for name, value in flat.items() if name[1] in given}
        if "data_dir" in without:  # which else says so, beside --offline
            flat["", "made-up rows"] = is_sample(run)
        key = json.dumps(sorted((*name, value) for name, value in flat.items()))
        found.setdefault(key, []).append(run)
        options[key] = flat
    tasks = list(TASKS)

    def place(key: str) -> tuple[int, str, list[tuple[str, float, str]]]:
        result = found[key][0].result
        return tasks.index(result.task), result.method, sortable(options[key])

    return [
        Group(
            key=key,
            runs=tuple(sorted(found[key], key=lambda run: (run.result.seed, run.folder))),
            options={name: option_text(value) for name, value in options[key].items()},
        )
        for key in sorted(found, key=place)
    ]


def varying(groups: Sequence[Group]) -> list[str]:
    """Returns the names of the options that tell groups apart; a method's fields only count among its own groups."""
    scopes = dict.fromkeys(key for each in groups for key in each.options)
    common = [name for scope, name in scopes if not scope and name != "method" and _differ(groups, scope, name)]
    methods = dict.fromkeys(each.method for each in groups)
    own = dict.fromkeys(name for method in methods for name in _own(groups, method))
    return [*(name for name in own if name not in common), *common]


def labels(groups: Sequence[Group], *, without: Sequence[str] = ()) -> list[str]:
    """Returns a short text for each group: the method, and what tells it from the others of that method.

    Args:
        groups: The groups of one task.
        without: Options to leave out.
    """
    presets = _differ(groups, "", "preset")
    texts = []
    for each in groups:
        own = [name for name in _own(groups, each.method) if name not in ("preset", *without)]
        parts = [
            f"{name.replace('_', ' ')} {each.option(name)}" for name in own if each.option(name) not in (None, UNSET)
        ]
        preset = f" on {each.option('preset')}" if presets else ""
        texts.append(", ".join([each.method + preset, *parts]))
    return texts


def _own(groups: Sequence[Group], method: str) -> list[str]:
    """Names of all options that differ among the groups of one method."""
    same = [each for each in groups if each.method == method]
    keys = dict.fromkeys(key for each in same for key in each.options)
    return list(dict.fromkeys(name for scope, name in keys if _differ(same, scope, name)))


def _differ(groups: Sequence[Group], scope: str, name: str) -> bool:
    return len({each.options.get((scope, name)) for each in groups}) > 1

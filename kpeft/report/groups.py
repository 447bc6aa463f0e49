"""Runs that differ in nothing but the seed, and what tells the groups of a task apart."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kpeft.config import DataConfig, TrainingConfig
from kpeft.glue.tasks import TASKS, Task, get_task
from kpeft.methods.fields import method_from_json, method_to_json
from kpeft.report.collect import Run
from kpeft.results import Score

Evaluation = Literal["last", "best"]
PATHS = ("data_dir", "tfds_dir")
"""Options that say where rows lie, not which they are."""


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


def group(runs: Iterable[Run], *, without: Sequence[str] = ()) -> list[Group]:
    """Puts runs together whose configurations are equal but for the seed.

    Args:
        runs: Any runs.
        without: Further options that may differ.

    Returns:
        The groups by task, in the order of GLUE's tasks, then method, then options.
    """
    found: dict[str, list[Run]] = {}
    options: dict[str, dict[tuple[str, str], Any]] = {}
    for run in runs:
        flat = {name: value for name, value in _flat(run.result.config, run).items() if name[1] not in without}
        key = json.dumps(sorted((*name, value) for name, value in flat.items()))
        found.setdefault(key, []).append(run)
        options[key] = flat
    tasks = list(TASKS)

    def place(key: str) -> tuple[int, str, list[tuple[str, float, str]]]:
        result = found[key][0].result
        return tasks.index(result.task), result.method, _sortable(options[key])

    return [
        Group(
            key=key,
            runs=tuple(sorted(found[key], key=lambda run: (run.result.seed, run.folder))),
            options={name: _text(value) for name, value in options[key].items()},
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
        parts = [f"{name.replace('_', ' ')} {each.option(name)}" for name in own if each.option(name) is not None]
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


def _flat(config: Mapping[str, Any], run: Run) -> dict[tuple[str, str], Any]:
    """Every option but the seed, with those that older versions did not have at their defaults."""
    method = config["method"]
    try:
        method = method_to_json(method_from_json(method))
    except (ValueError, TypeError, AttributeError):  # of another version; what it says is what is compared
        method = dict(method)
    flat: dict[tuple[str, str], Any] = {("", "task"): run.result.task, ("", "preset"): run.result.preset}
    parts = method.get("parts") if isinstance(method.get("parts"), list) else [method]
    for part in parts:
        name = str(part.get("name", run.result.method))
        prefix = f"{name} " if len(parts) > 1 else ""
        flat |= {(name, prefix + field): value for field, value in part.items() if field != "name"}
    flat[("", "method")] = run.result.method
    for kind, part in ((TrainingConfig, "training"), (DataConfig, "data")):
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        flat |= {("", name): value for name, value in {**defaults, **config[part]}.items() if name != "seed"}
    flat |= {("", name): config.get(name) for name in ("precision", "adapter")}
    return {name: _plain(value) for name, value in flat.items()}


def _plain(value: Any) -> Any:
    """Equal values as one: tuples as lists, whole numbers as int."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _sortable(options: Mapping[tuple[str, str], Any]) -> list[tuple[str, float, str]]:
    numbers = (int, float)
    return [
        (name, value if isinstance(value, numbers) else 0, "" if isinstance(value, numbers) else _text(value))
        for (_, name), value in sorted(options.items())
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return str(value)

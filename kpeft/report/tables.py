"""The tables of a report: scores, size and time, confusion matrices, runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kpeft.glue.tasks import Task
from kpeft.report.collect import Run
from kpeft.report.confusion import Confusion, solve
from kpeft.report.document import Cell, Table
from kpeft.report.groups import Evaluation, Group, Spread, is_sample, own_name, own_score, score_of, varying
from kpeft.results import MASKED_LM_LOSS

_LOWER_IS_BETTER = ("loss", "mse", "mae", MASKED_LM_LOSS)
NONE = "-"
HOLDOUT = "holdout"  # prefix of the metrics of training rows that were held out
TIMES = {"train_seconds": "training s", "compile_seconds": "compilation s", "total_seconds": "whole run s"}


def metric_names(task: Task, groups: Sequence[Group], evaluation: Evaluation) -> list[str]:
    """Returns the metrics that any of the groups has, GLUE's own first, then those of rows held out."""
    prefixes = (*task.validation, HOLDOUT)
    names = [f"{prefix}/{name}" if prefix else name for prefix in prefixes for name in task.metrics]
    names.append(MASKED_LM_LOSS)
    return [name for name in names if any(each.metric(name, evaluation) for each in groups)]


def lower_is_better(metric: str) -> bool:
    return metric.rpartition("/")[2] in _LOWER_IS_BETTER


def scores(groups: Sequence[Group], evaluation: Evaluation) -> Table:
    """A row for each group: what tells it from the others, its seeds, and its metrics with the best marked."""
    task = groups[0].task
    metrics = metric_names(task, groups, evaluation)
    options = varying(groups)
    columns = [[each.metric(name, evaluation) for each in groups] for name in metrics]
    real = [not any(map(is_sample, each.runs)) for each in groups]
    best = []
    for name, column in zip(metrics, columns, strict=True):
        fit = [value if own or not any(real) else None for value, own in zip(column, real, strict=True)]
        best.append(best_of(fit, lower=lower_is_better(name)))  # made-up rows do not compete with real ones
    rows = []
    for index, each in enumerate(groups):
        cells = [Cell(each.method), *(Cell(each.option(name) or NONE) for name in options), Cell(_seeds(each))]
        for column, marked in zip(columns, best, strict=True):
            cells.append(Cell(spread_text(column[index], len(each.runs)), best=index in marked))
        rows.append(tuple(cells))
    which = "after the last step" if evaluation == "last" else "that is each run's best"
    return Table(
        caption=f"{task.title}: scores of the evaluation {which}, mean ± standard deviation over seeds",
        columns=("method", *(name.replace("_", " ") for name in (*options, "seeds", *metrics))),
        rows=tuple(rows),
    )


def best_of(column: Sequence[Spread | None], *, lower: bool) -> set[int]:
    """Returns which of the means are the best, as they are shown; none, where there is only one."""
    means = {index: round(value.mean, 4) for index, value in enumerate(column) if value}
    if len(means) < 2:
        return set()
    best = (min if lower else max)(means.values())
    return {index for index, mean in means.items() if mean == best}


def spread_text(value: Spread | None, runs: int, text: Callable[[float], str] = "{:.4f}".format) -> str:
    """Writes a mean with its deviation, and of how many runs it is where some lack the value."""
    if value is None:
        return NONE
    deviation = "" if value.std is None else f" ± {text(value.std)}"
    return text(value.mean) + deviation + ("" if value.count == runs else f" ({value.count} of {runs} runs)")


def _seeds(each: Group) -> str:
    return f"{len(each.runs)} ({', '.join(map(str, each.seeds))})"


def seconds(value: float) -> str:
    """Writes seconds, or examples a second: whole ones from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def sizes(groups: Sequence[Group], labels: Sequence[str]) -> Table:
    """A row for each group: parameters and time."""
    rows = []
    for each, label in zip(groups, labels, strict=True):
        counts = each.runs[0].result.parameters
        cells = [label, f"{counts['trainable']:,}", f"{counts['trainable'] / counts['total']:.3%}"]
        for name in ("train_examples_per_second", *TIMES):
            cells.append(spread_text(each.timing(name), len(each.runs), seconds))
        rows.append(tuple(map(Cell, cells)))
    return Table(
        caption=f"{groups[0].task.title}: trained parameters and time, mean ± standard deviation over seeds",
        columns=("method", "trainable", "of all", "examples/s", *TIMES.values()),
        rows=tuple(rows),
    )


def confusions(groups: Sequence[Group], labels: Sequence[str], evaluation: Evaluation) -> tuple[list[Table], str]:
    """Returns a matrix for each group, and a line that says how they came about or why some are missing."""
    task = groups[0].task
    if len(task.labels) != 2:
        what = "scores and not classes" if task.regression else f"{len(task.labels)} classes"
        return [], f"No confusion matrices: {task.title} has {what}, of which metrics do not give the counts."
    solved = {label: _solved(each, evaluation) for each, label in zip(groups, labels, strict=True)}
    tables = [_matrix(label, task, matrices) for label, matrices in solved.items() if matrices]
    missing = [label for label, matrices in solved.items() if not matrices]
    note = "Counted back from accuracy, precision, recall and the number of validation rows; means over seeds."
    if missing:
        note = f"{note} " if tables else ""
        note += (
            f"No matrix for {'; '.join(missing)}: precision and recall are missing in a run, or leave several "
            "possible, as where no row is found positive."
        )
    return tables, note


def _solved(each: Group, evaluation: Evaluation) -> list[Confusion]:
    """The matrix of every run; nothing, if that of one cannot be told."""
    matrices = []
    for run in each.runs:
        score, rows = score_of(run, evaluation), run.result.data.get("validation_examples", 0)
        solved = solve(score.metrics, rows) if score else None
        if solved is None:
            return []
        matrices.append(solved)
    return matrices


def _matrix(label: str, task: Task, matrices: Sequence[Confusion]) -> Table:
    def row(name: str, *counts: Sequence[int]) -> tuple[Cell, ...]:
        means = [sum(each) / len(matrices) for each in counts]
        shares = [mean / (sum(means) or 1) for mean in means]
        texts = [f"{mean:,.0f}" if mean == int(mean) else f"{mean:,.1f}" for mean in means]
        cells = [Cell(f"{text} ({share:.0%})", shade=share) for text, share in zip(texts, shares, strict=True)]
        return Cell(f"is {name}"), *cells

    negative, positive = (name.replace("_", " ") for name in task.labels)
    return Table(
        caption=label,
        columns=("rows", f"predicted {negative}", f"predicted {positive}"),
        rows=(
            row(negative, [m.tn for m in matrices], [m.fp for m in matrices]),
            row(positive, [m.fn for m in matrices], [m.tp for m in matrices]),
        ),
    )


def runs(groups: Sequence[Group], labels: Sequence[str], evaluation: Evaluation) -> Table:
    """A row for each run: its own score, versions and hardware."""
    task = groups[0].task
    rows = []
    for each, label in zip(groups, labels, strict=True):
        for run in each.runs:
            score, own = score_of(run, evaluation), own_score(run, evaluation)
            cells = (
                run.folder,
                label,
                str(run.result.seed),
                NONE if own is None else f"{own:.4f}",
                str(score.step) if score else NONE,
                str(run.result.data.get("source", NONE)),
                " ".join(f"{name} {version}" for name, version in sorted(run.result.versions.items())),
                hardware_text(run),
            )
            rows.append(tuple(map(Cell, cells)))
    return Table(
        caption=f"{task.title}: every run",
        columns=("folder", "method", "seed", own_name(task), "at step", "rows", "versions", "hardware"),
        rows=tuple(rows),
    )


def hardware_text(run: Run) -> str:
    """Says what a run was made on."""
    found = run.hardware
    if found is None:
        return "not recorded"
    devices = "" if found["platform"] == "cpu" else f"{found['devices']} x {found['device']} ({found['platform']}); "
    return f"{devices}{found['processor']}, {found['cores']} cores"

"""Two folders beside each other: the configurations that both have, and those of one only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kpeft.glue.tasks import Task
from kpeft.report.build import by_task, cautions, noted, which
from kpeft.report.collect import Collection
from kpeft.report.document import Block, Cell, Document, Points, Row, Section, Table, Text
from kpeft.report.figures import pair_figure
from kpeft.report.groups import PATHS, RUNS_OF_OTHERS, Evaluation, Group, Spread, group, labels
from kpeft.report.tables import NONE, TIMES, best_of, hardware_text, lower_is_better, metric_names, seconds, spread_text

Pair = tuple[str, Group, Group]


def compare(first: Collection, second: Collection, evaluation: Evaluation) -> Document:
    """Returns the report of two folders.

    Args:
        first: A, what is compared with.
        second: B.
        evaluation: Which evaluation of a run to show.
    """
    sides = [
        {each.key: each for each in group(side.runs, without=PATHS, given=RUNS_OF_OTHERS)} for side in (first, second)
    ]
    lead = (
        f"A is {first.name}, B is {second.name}. Runs of one configuration, but for the seed and the folders of rows, "
        "adapters and teachers, are put together. The better mean is in bold; a difference is B - A, a ratio B / A.",
        which(evaluation, [*first.runs, *second.runs]),
    )
    sections = [noted(side) for side in (first, second) if side.notes]
    for task, groups in by_task([*sides[0].values(), *(e for key, e in sides[1].items() if key not in sides[0])]):
        named = list(zip(groups, labels(groups), strict=True))
        pairs = [(name, sides[0][e.key], sides[1][e.key]) for e, name in named if all(e.key in side for side in sides)]
        tables = (_scores(task, pairs, evaluation), _times(task, pairs))
        blocks: list[Block] = [
            Text(_made(letter, [(name, side[e.key]) for e, name in named if e.key in side]))
            for letter, side in zip("AB", sides, strict=True)
            if any(e.key in side for e in groups)
        ]
        if (figure := pair_figure(pairs, evaluation)) is not None:
            blocks.append(Row((figure,)))
        blocks += [table for table in tables if table.rows]
        if not pairs:
            blocks.append(Text("No configuration is in both."))
        for letter, own, other in (("A", 0, 1), ("B", 1, 0)):
            alone = [name for e, name in named if e.key in sides[own] and e.key not in sides[other]]
            if alone:
                blocks += [Text(f"Only in {letter}:"), Points(tuple(alone))]
        sections.append(Section(title=task.title, blocks=tuple(blocks)))
    return Document(title=f"kpeft runs: {first.name} and {second.name}", lead=lead, sections=tuple(sections))


def _made(letter: str, named: Sequence[tuple[str, Group]]) -> str:
    """Says what one side was made on, and what keeps it from being compared."""
    names, groups = zip(*named, strict=True)
    hardware = sorted({hardware_text(run) for each in groups for run in each.runs})
    return " ".join([f"Hardware of {letter}: {'; and '.join(hardware)}.", *cautions(groups, names)])


def _scores(task: Task, pairs: Sequence[Pair], evaluation: Evaluation) -> Table:
    rows = []
    for name, first, second in pairs:
        for metric in metric_names(task, [first, second], evaluation):
            values = [each.metric(metric, evaluation) for each in (first, second)]
            best = best_of(values, lower=lower_is_better(metric))
            a, b = (
                Cell(spread_text(value, len(each.runs)), best=index in best and len(best) == 1)
                for index, (value, each) in enumerate(zip(values, (first, second), strict=True))
            )
            cells = (metric.replace("_", " "), a, b, _change(values, "{:+.4f}".format), *_counts(first, second))
            rows.append((Cell(name), *(each if isinstance(each, Cell) else Cell(each) for each in cells)))
    return Table(
        caption=f"{task.title}: mean ± standard deviation over seeds",
        columns=("method", "metric", "A", "B", "difference", "seeds of A", "seeds of B"),
        rows=tuple(rows),
    )


def _change(values: Sequence[Spread | None], text: Callable[[float], str]) -> str:
    first, second = values
    return NONE if first is None or second is None else text(second.mean - first.mean)


def _counts(first: Group, second: Group) -> tuple[str, str]:
    return str(len(first.runs)), str(len(second.runs))


def _times(task: Task, pairs: Sequence[Pair]) -> Table:
    rows = []
    for name, first, second in pairs:
        for what, text in {"train_examples_per_second": "examples/s", **TIMES}.items():
            values = [each.timing(what) for each in (first, second)]
            a, b = (spread_text(v, len(e.runs), seconds) for v, e in zip(values, (first, second), strict=True))
            ratio = f"{values[1].mean / values[0].mean:.2f}" if values[0] and values[1] and values[0].mean else NONE
            rows.append(tuple(map(Cell, (name, text, a, b, ratio))))
    return Table(
        caption=f"{task.title}: time, mean ± standard deviation over seeds",
        columns=("method", "what", "A", "B", "B / A"),
        rows=tuple(rows),
    )

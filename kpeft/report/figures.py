"""Scores against rank, learning rate, parameters and time, cost against rank, bars of cost, and two folders' scores."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kpeft.report.document import Cell, Figure, Table
from kpeft.report.drawing import COLOURS, INK, drawing, log_axis, number_text, style, swatch
from kpeft.report.groups import Evaluation, Group, Spread, labels, own_name, spread
from kpeft.report.tables import seconds, spread_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHOSEN = ("rank", "learning rate")  # by whoever started the runs
_COSTS = ("trained parameters", "training seconds")
_SCORE = "score"


class Point(NamedTuple):
    """A group's place in a figure."""

    group: int
    x: Spread
    y: Spread


def score_figures(groups: Sequence[Group], names: Sequence[str], evaluation: Evaluation) -> list[Figure]:
    """Returns a task's own score against each of four others, and the costs against rank."""
    read: dict[str, Callable[[Group], Spread | None]] = {
        "rank": lambda each: _number(each, "rank"),
        "learning rate": lambda each: _number(each, "learning_rate"),
        "trained parameters": lambda each: spread([each.runs[0].result.parameters["trainable"]]),
        "training seconds": lambda each: each.timing("train_seconds"),
        _SCORE: lambda each: each.own_score(evaluation),
    }
    figures = []
    for what, y in [*((what, _SCORE) for what in (*_CHOSEN, *_COSTS)), *(("rank", cost) for cost in _COSTS)]:
        found = [(number, read[what](each), read[y](each)) for number, each in enumerate(groups)]
        points = [Point(number, x, y) for number, x, y in found if x and x.mean > 0 and y]
        if len({point.x.mean for point in points}) > 1:
            option = what.replace(" ", "_") if what in _CHOSEN else None
            lines = _lines(points, groups, option) if option else [[point] for point in points]
            keys = labels(groups, without=(option,)) if option else names
            figures.append(_figure(what, y, lines, groups, names, keys))
    return figures


def _number(each: Group, name: str) -> Spread | None:
    try:
        value = float(each.option(name) or "")
        return spread([value]) if math.isfinite(value) else None
    except ValueError:  # a method without it
        return None


def _lines(points: Sequence[Point], groups: Sequence[Group], option: str) -> list[list[Point]]:
    """Puts points on one line whose groups differ in nothing but an option."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        others = {key: value for key, value in groups[point.group].options.items() if key[1] != option}
        lines.setdefault(json.dumps(sorted((*key, value) for key, value in others.items())), []).append(point)
    return [sorted(line, key=lambda point: point.x.mean) for line in lines.values()]


def _figure(
    what: str, y: str, lines: Sequence[list[Point]], groups: Sequence[Group], names: Sequence[str], keys: Sequence[str]
) -> Figure:
    unit = own_name(groups[0].task) if y == _SCORE else y
    points = [point for line in lines for point in line]
    logarithmic = what != "training seconds"
    with drawing() as (drawn, panel):
        for number, line in enumerate(lines):
            xs, ys = ([getattr(point, side).mean for point in line] for side in ("x", "y"))
            spreads = [(point.x.std or 0.0, point.y.std or 0.0) for point in line]
            panel.errorbar(
                xs, ys, xerr=[s for s, _ in spreads], yerr=[s for _, s in spreads], capsize=3, **style(number)
            )
        if logarithmic:
            log_axis(panel, [point.x.mean for point in points], at_values=what in _CHOSEN)
        else:
            panel.set_xlim(left=0)
            panel.xaxis.set_major_formatter(number_text)
        panel.set_xlabel(f"{what} (logarithmic)" if logarithmic else what)
        if y == _COSTS[0]:
            log_axis(panel, [point.y.mean for point in points], axis="y")
        elif y == _COSTS[1]:
            panel.set_ylim(bottom=0)
        panel.set_ylabel(f"{unit} (log)" if y == _COSTS[0] else unit)
    write = number_text if y in _COSTS else "{:.4f}".format
    rows = tuple(
        tuple(map(Cell, (names[p.group], spread_text(p.x, p.x.count, number_text), spread_text(p.y, runs, write))))
        for p, runs in ((point, len(groups[point.group].runs)) for point in points)
    )
    joined = " Lines join groups that differ in nothing else." if len(lines) < len(points) else ""
    return Figure(
        title=f"{y.capitalize()} against {what}",
        caption=f"{unit.capitalize()}, means over seeds; whiskers are one standard deviation.{joined}",
        svg=drawn.svg,
        size=drawn.size,
        key=tuple((swatch(number), keys[line[0].group]) for number, line in enumerate(lines)),
        data=Table(caption=f"{y.capitalize()} and {what}", columns=("method", what, unit), rows=rows),
    )


def pair_figure(pairs: Sequence[tuple[str, Group, Group]], evaluation: Evaluation) -> Figure | None:
    """Returns the scores of a task's configurations in A and in B, by name; `None` where none has both."""
    read = [(name, a, b, a.own_score(evaluation), b.own_score(evaluation)) for name, a, b in pairs]
    scored = [(name, (a, b), (first, second)) for name, a, b, first, second in read if first and second]
    if not scored:
        return None
    unit = own_name(scored[0][1][0].task)
    with drawing(0.75 + 0.44 * len(scored)) as (drawn, panel):
        for number in (0, 1):
            scores = [spreads[number] for _, _, spreads in scored]
            places = [place + 0.1 * number for place in range(len(scored))]
            look = {**style(number), "linestyle": "none"}
            whiskers = [score.std or 0.0 for score in scores]
            panel.errorbar([score.mean for score in scores], places, xerr=whiskers, capsize=3, **look)
        for place, (name, _, _) in enumerate(scored):
            _name_above(panel, place - 0.14, name)
        panel.set_ylim(len(scored) - 0.6, -0.75)
        panel.set_yticks([])
        panel.xaxis.set_major_formatter(number_text)
        panel.set_xlabel(unit)
        panel.spines["left"].set_visible(False)
    rows = []
    for name, sides, spreads in scored:
        texts = (spread_text(score, len(side.runs)) for score, side in zip(spreads, sides, strict=True))
        rows.append(tuple(map(Cell, (name, *texts))))
    return Figure(
        title="Score in A and in B",
        caption=f"{unit.capitalize()}, means over seeds; whiskers are one standard deviation.",
        svg=drawn.svg,
        size=drawn.size,
        key=tuple((swatch(number), side) for number, side in enumerate("AB")),
        data=Table(caption="Score in A and in B", columns=("method", "A", "B"), rows=tuple(rows)),
    )


def bar_figures(groups: Sequence[Group], names: Sequence[str]) -> list[Figure]:
    """Returns bars of the trained parameters and of the time of a task's groups."""
    counts = [float(each.runs[0].result.parameters["trainable"]) for each in groups]
    parameters = _bars(
        "Trained parameters",
        "On a logarithmic axis, so lengths do not stand in the numbers' proportion.",
        names,
        {"trained parameters": counts},
        "{:,.0f}".format,
        logarithmic=True,
    )
    times: dict[str, list[float]] = {"training": [], "compilation": [], "the rest: loading, evaluation, writing": []}
    timed = []
    for number, each in enumerate(groups):
        whole, train, compiling = (each.timing(f"{name}_seconds") for name in ("total", "train", "compile"))
        if whole and train and compiling:
            timed.append(number)
            rest = max(0.0, whole.mean - train.mean - compiling.mean)
            for part, value in zip(times, (train.mean, compiling.mean, rest), strict=True):
                times[part].append(value)
    if not timed:
        return [parameters]
    caption = "Means over seeds, in seconds from the start of the process to its end."
    return [parameters, _bars("Time", caption, [names[number] for number in timed], times, seconds)]


def _bars(
    title: str,
    caption: str,
    names: Sequence[str],
    parts: dict[str, list[float]],
    text: Callable[[float], str],
    *,
    logarithmic: bool = False,
) -> Figure:
    """Draws a bar for each label, of several parts one behind the other; each label stands above its bar."""
    sums = [sum(values) for values in zip(*parts.values(), strict=True)]
    start = 10 ** (len(str(int(min(sums)))) - 2) if logarithmic else 0
    with drawing(0.6 + 0.44 * len(names)) as (drawn, panel):
        left = [float(start)] * len(names)
        places = [float(number) for number in range(len(names))]
        for number, values in enumerate(parts.values()):
            lengths = [value - start for value in values] if logarithmic else values
            panel.barh(places, lengths, height=0.42, left=left, color=COLOURS[number], edgecolor=INK, linewidth=0.4)
            left = [before + length for before, length in zip(left, lengths, strict=True)]
        if logarithmic:
            log_axis(panel, [start, max(sums)])
            panel.set_xlim(start, max(sums) * 1.05)
        for place, label, whole in zip(places, names, sums, strict=True):
            _name_above(panel, place - 0.28, label, f": {text(whole)}")
        panel.set_ylim(len(names) - 0.7, -0.85)
        panel.set_yticks([])
        panel.xaxis.set_major_formatter(number_text)
        panel.spines["left"].set_visible(False)
    columns = [*parts, "together"] if len(parts) > 1 else list(parts)
    rows = []
    for index, label in enumerate(names):
        values = [each[index] for each in parts.values()] + ([sums[index]] if len(parts) > 1 else [])
        rows.append(tuple(map(Cell, (label, *map(text, values)))))
    return Figure(
        title=title,
        caption=caption,
        svg=drawn.svg,
        size=drawn.size,
        key=tuple((swatch(number, bar=True), name) for number, name in enumerate(parts)) if len(parts) > 1 else (),
        data=Table(caption=title, columns=("method", *columns), rows=tuple(rows)),
    )


def _name_above(panel: Axes, place: float, name: str, more: str = "") -> None:
    short = name if len(name) <= 44 else f"{name[:43]}…"
    panel.annotate(
        f"{short}{more}",
        (0, place),
        xycoords=("axes fraction", "data"),
        xytext=(3, 0),
        textcoords="offset points",
        fontsize=9,
        va="bottom",
    )

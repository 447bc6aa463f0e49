"""Losses against steps: training loss in means of several steps, validation loss as it was evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from kpeft.report.collect import Run
from kpeft.report.document import Cell, Figure, Table
from kpeft.report.drawing import drawing, number_text, style, swatch
from kpeft.report.groups import Group, Spread, spread
from kpeft.report.tables import HOLDOUT, spread_text
from kpeft.results import MASKED_LM_LOSS

POINTS = 50
TOGETHER = 8
BANDS = 4  # more would hide each other
Curve = Mapping[int, Spread]


def loss_figures(groups: Sequence[Group], labels: Sequence[str]) -> list[Figure]:
    """Returns the figures of a task's losses: eight groups in each, all with the same axes."""
    width = width_of(run for each in groups for run in each.runs)
    training = [_mean([_binned(run, width) for run in each.runs]) for each in groups]
    steps = f"means of {width} steps each" if width > 1 else "every step"
    figures = _draw("training loss", f"In {steps}.", training, labels)
    for prefix in (*groups[0].task.validation, HOLDOUT):
        name = f"{prefix}/loss" if prefix else "loss"
        validation = [_mean([_evaluated(run, name) for run in each.runs]) for each in groups]
        rows = {"": "validation rows", HOLDOUT: "training rows that were held out"}.get(prefix, f"{prefix} rows")
        figures += _draw(f"validation {name}", f"Evaluated on the {rows}.", validation, labels)
    masked = [_mean([_masked_lm(run) for run in each.runs]) for each in groups]
    what = "Of the encoder on text that is not the task's; what it rises, training has made it forget."
    return figures + _draw("masked-LM loss", what, masked, labels)


def width_of(runs: Iterable[Run]) -> int:
    """Returns over how many steps the training losses of a task's runs are averaged, for at most 50 points of each."""
    longest = max((step for run in runs for step, _ in run.losses), default=0)
    return -(-longest // POINTS) or 1


def _binned(run: Run, width: int) -> dict[int, float]:
    """Means of the losses of so many steps each, by the last step of them."""
    bins: dict[int, list[float]] = {}
    for step, loss in run.losses:
        bins.setdefault(-(-step // width) * width, []).append(loss)
    last = run.losses[-1][0] if run.losses else 0
    return {min(end, last): sum(losses) / len(losses) for end, losses in bins.items()}


def _evaluated(run: Run, name: str) -> dict[int, float]:
    return {step: metrics[name] for step, metrics in run.evaluations if name in metrics}


def _masked_lm(run: Run) -> dict[int, float]:
    before = run.result.masked_lm_loss
    return ({} if before is None else {0: before}) | _evaluated(run, MASKED_LM_LOSS)


def _mean(curves: Sequence[Mapping[int, float]]) -> Curve:
    """The spread over the runs that have a value at a step."""
    steps = sorted({step for curve in curves for step in curve})
    means = {step: spread(curve.get(step) for curve in curves) for step in steps}
    return {step: value for step, value in means.items() if value}


def _draw(what: str, caption: str, curves: Sequence[Curve], labels: Sequence[str]) -> list[Figure]:
    shown = [(number, curve) for number, curve in enumerate(curves) if curve]
    if all(len(curve) < 2 for _, curve in shown):  # a point is no curve
        return []
    ends = [mean.mean + sign * (mean.std or 0) for _, curve in shown for mean in curve.values() for sign in (-1, 1)]
    room = 0.05 * (max(ends) - min(ends) or 1)
    last = max(step for _, curve in shown for step in curve)
    parts = [shown[start : start + TOGETHER] for start in range(0, len(shown), TOGETHER)]
    figures = []
    for part_number, part in enumerate(parts, 1):
        with drawing() as (drawn, panel):
            for number, curve in part:
                steps, values = list(curve), list(curve.values())
                every = max(1, len(steps) // 6)
                means = [value.mean for value in values]
                panel.plot(steps, means, markevery=every, markersize=4.5, linewidth=1.3, **style(number))
                low, high = ([v.mean + sign * (v.std or 0) for v in values] for sign in (-1, 1))
                if len(part) <= BANDS:
                    panel.fill_between(steps, low, high, color=style(number)["color"], alpha=0.15, linewidth=0)
            panel.set_ylim(min(ends) - room, max(ends) + room)
            panel.set_xlim(0, last * 1.03)
            panel.set_xlabel("step")
            panel.set_ylabel(what)
            panel.xaxis.set_major_formatter(number_text)
        bands = ", bands one standard deviation" if len(part) <= BANDS else ""
        several = f" ({part_number} of {len(parts)})" if len(parts) > 1 else ""
        figures.append(
            Figure(
                title=f"{what[0].upper()}{what[1:]} against steps{several}",
                caption=f"{caption} Lines are means over seeds{bands}.{_fewer(part)}",
                svg=drawn.svg,
                size=drawn.size,
                key=tuple((swatch(number), labels[number]) for number, _ in part),
                data=_data(what, part, labels),
            )
        )
    return figures


def _seeds(curve: Curve) -> int:
    return max(value.count for value in curve.values())


def _fewer(part: Sequence[tuple[int, Curve]]) -> str:
    """Says so where some runs of a line ended before others."""
    some = any(value.count < _seeds(curve) for _, curve in part for value in curve.values())
    return " Where runs ended earlier, they are of those that went on: the numbers say of how many." if some else ""


def _data(what: str, part: Sequence[tuple[int, Curve]], labels: Sequence[str]) -> Table:
    steps = sorted({step for _, curve in part for step in curve})
    rows = []
    for step in steps:
        values = [(curve.get(step), _seeds(curve)) for _, curve in part]
        rows.append((Cell(str(step)), *(Cell(spread_text(value, seeds)) for value, seeds in values)))
    columns = ("step", *(labels[number] for number, _ in part))
    return Table(caption=f"{what[0].upper()}{what[1:]} by step", columns=columns, rows=tuple(rows))

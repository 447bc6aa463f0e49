"""How fast a cost grows: exponents fitted to the scaling sweep, and what they say in words."""

from __future__ import annotations

import math
from typing import Any

from experiments.benchmarks.grid import AXES, LORA, axis_points, figures_at
from experiments.benchmarks.tables import NAMES

Series = list[tuple[int, float]]
_MEASURES = ("seconds_per_step", "flops_per_step", "peak_gib")


def exponent(curve: Series) -> float | None:
    """Slope of log y over log x in the upper half of the points, by least squares; `None` below two points.

    y ∝ x^slope. The lower half is left out, since what every step costs flattens a curve there.
    """
    upper = [(math.log(x), math.log(y)) for x, y in upper_half(curve)]
    if len(upper) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(upper) for values in zip(*upper, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in upper) / sum((x - mean_x) ** 2 for x, _ in upper)


def upper_half(curve: Series) -> Series:
    """The points from the middle one on: three of five, two of two or three."""
    ordered = sorted(curve)
    return ordered[min(len(ordered) // 2, max(len(ordered) - 2, 0)) :]


def describe(slope: float) -> str:
    """An exponent in words."""
    if slope < 0.15:
        return "hardly at all"
    if slope < 0.85:
        return "less than linearly"
    return "about linearly" if slope <= 1.15 else "more than linearly"


def series(result: dict[str, Any], precision: str, axis: str, method: str, measure: str) -> Series:
    """A method's curve along an axis: the axis's values and a measure, where a result has it."""
    if axis == "rank" and method not in LORA:
        return []
    points = axis_points(precision, axis)
    held = [(getattr(point, axis), figures_at(result, point, method)) for point in points]
    return [(value, figures[measure]) for value, figures in held if figures is not None]


def curves(result: dict[str, Any], precision: str, axis: str, measure: str) -> dict[str, Series]:
    """All methods' curves of more than one point along an axis."""
    found = {method: series(result, precision, axis, method, measure) for method in NAMES}
    return {method: curve for method, curve in found.items() if len(curve) > 1}


def report(result: dict[str, Any], precision: str) -> str:
    """Markdown: what grows how, then every measured point."""
    parts = [f"## {precision}", "### What grows how", exponents(result, precision), sentences(result, precision)]
    for axis in AXES:
        if curves(result, precision, axis, "seconds_per_step"):
            parts += [f"### By {axis}", points_table(result, precision, axis)]
    return "\n\n".join(parts)


def exponents(result: dict[str, Any], precision: str) -> str:
    """Markdown: exponents of time, with those of the FLOPs needed and of the peak memory."""
    axes = [axis for axis in AXES if curves(result, precision, axis, "seconds_per_step")]
    lines = [["method"], ["---"]]
    for axis in axes:
        found = curves(result, precision, axis, "seconds_per_step").values()
        values = [value for curve in found for value, _ in upper_half(curve)]
        lines[0].append(f"{axis} {min(values)} to {max(values)}")
        lines[1].append("---:")
    for method, name in NAMES.items():
        slopes = [
            [exponent(series(result, precision, axis, method, measure)) for measure in _MEASURES] for axis in axes
        ]
        if any(slope is not None for cell in slopes for slope in cell):
            lines.append([name, *(_cell(cell) for cell in slopes)])
    note = "Exponents of a step's time (of the FLOPs it needs; of peak memory), fitted to the upper half of each axis."
    return f"{note}\n\n{_markdown(lines)}"


def _cell(slopes: list[float | None]) -> str:
    time, flops, memory = slopes
    return "" if time is None or flops is None or memory is None else f"{time:z.2f} ({flops:z.2f}; {memory:z.2f})"


def sentences(result: dict[str, Any], precision: str) -> str:
    """Markdown list: for each axis, which methods' time grows how, and what doubling costs."""
    lines = []
    for axis in AXES:
        found = curves(result, precision, axis, "seconds_per_step")
        slopes = {method: slope for method, curve in found.items() if (slope := exponent(curve)) is not None}
        if not slopes:
            continue
        groups: dict[str, list[str]] = {}
        for method, slope in sorted(slopes.items(), key=lambda item: item[1]):
            groups.setdefault(describe(slope), []).append(NAMES[method])
        said = "; ".join(f"{words} for {', '.join(names)}" for words, names in groups.items())
        doubled = dict.fromkeys(f"{2**slope:.2f}" for slope in (min(slopes.values()), max(slopes.values())))
        lines.append(
            f"- **{axis}**: a step's time grows {said}. Twice the {axis} takes {' to '.join(doubled)} times as long."
        )
    return "\n".join(lines)


def points_table(result: dict[str, Any], precision: str, axis: str) -> str:
    """Markdown: every measured point of an axis."""
    head = [axis, "method", "s/step", "tokens/s", "GFLOP/step needed", "GFLOP/s", "peak GiB"]
    lines = [head, ["---:", "---", *["---:"] * 5]]
    curves_of = curves(result, precision, axis, "seconds_per_step")
    for point in axis_points(precision, axis):
        for method in curves_of:
            figures = figures_at(result, point, method)
            if figures is None:
                continue
            gflops, seconds = figures["flops_per_step"] / 1e9, figures["seconds_per_step"]
            tokens = point.batch * point.length / seconds
            cells = f"{seconds:.3f}", f"{tokens:.0f}", f"{gflops:.1f}", f"{gflops / seconds:.0f}"
            lines.append([str(getattr(point, axis)), NAMES[method], *cells, f"{figures['peak_gib']:.2f}"])
    return _markdown(lines)


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

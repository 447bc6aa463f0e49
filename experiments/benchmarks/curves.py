"""The scaling sweep as a picture: time and memory of a step over each axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.benchmarks.grid import AXES
from experiments.benchmarks.growth import curves
from experiments.benchmarks.tables import NAMES

# Measure -> its label, and the figures at which the scale has marks.
_ROWS = {
    "seconds_per_step": ("seconds a step", (1, 2, 5)),
    "peak_gib": ("peak memory, GiB", (1, 1.5, 2, 3, 5, 7)),
}


def plot(result: dict[str, Any], precision: str, path: Path) -> None:
    """Draws a panel for each axis and measure, both scales logarithmic, a line for each method.

    The dotted line grows linearly with the axis.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    axes = [axis for axis in AXES if curves(result, precision, axis, "seconds_per_step")]
    if not axes:
        return
    figure, panels = pyplot.subplots(
        2, len(axes), figsize=(3.2 * len(axes), 6.2), sharey="row", squeeze=False, layout="constrained"
    )
    colours = dict(zip(NAMES, pyplot.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    for row, (measure, (label, marks)) in zip(panels, _ROWS.items(), strict=True):
        for panel, axis in zip(row, axes, strict=True):
            found = curves(result, precision, axis, measure)
            for method, curve in found.items():
                panel.plot(*zip(*curve, strict=True), "o-", color=colours[method], label=NAMES[method], markersize=4)
            _draw_scales(panel, sorted({x for curve in found.values() for x, _ in curve}), marks)
            if measure == "seconds_per_step":
                _draw_guide(panel, found)
                panel.set_title(f"by {axis}", fontsize=10)
            else:
                panel.set_xlabel(axis)
        row[0].set_ylabel(label)
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)
    cpus = result["settings"]["machine"]["cpus"]
    figure.suptitle(f"kpeft {precision}, {result['settings']['width']} wide, {cpus} CPU cores", fontsize=11)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw_scales(panel: Any, values: list[int], marks: tuple[float, ...]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(values, [str(value) for value in values])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=marks))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_guide(panel: Any, found: dict[str, list[tuple[int, float]]]) -> None:
    """From the highest point at the right end with slope 1 down to the height of the lowest point, or the left end."""
    points = [point for curve in found.values() for point in curve]
    right = max(x for x, _ in points)
    top = max(y for x, y in points if x == right)
    left = max(min(x for x, _ in points), right * min(y for _, y in points) / top)
    panel.plot([left, right], [top * left / right, top], ":", color="grey", label="linear", zorder=0)

"""The table and the picture of `experiments.methods`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any


def table(result: dict[str, Any]) -> str:
    """Returns Markdown: a row for each method; ± is the standard deviation over seeds."""
    lines = [
        "| method | trainable, BERT-base | adapter MB | rate | epochs | MRPC accuracy | F1 | seeds | speed over full |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for flags, method in result["methods"].items():
        runs = method["runs"]
        cells = [
            f"`{flags}`",
            f"{method['trainable']:,}",
            f"{method['adapter_bytes'] / 1e6:.2f}",
            f"{runs[0]['learning_rate']:g}" if runs else "",
            str(runs[0]["epochs"]) if runs else "",
            _spread([run["accuracy"] for run in runs]),
            _spread([run["f1"] for run in runs]),
            str(len(runs)),
            _ratio(method.get("speed", {})),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def _ratio(speed: dict[str, Any]) -> str:
    """The median of the rounds, with the least and the greatest."""
    turns, full = speed.get("turns"), speed.get("full")
    if not turns or not full:
        return ""
    ratios = [own / other for own, other in zip(turns, full, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draws accuracy over trained parameters, on a logarithmic scale; bars are the least and the greatest seed."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    found = {flags: method for flags, method in result["methods"].items() if method["runs"]}
    if not found:
        return
    figure, panel = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    points = {}
    for flags, method in found.items():
        values = [run["accuracy"] for run in method["runs"]]
        x, mean = points[flags] = method["trainable"], statistics.mean(values)
        panel.plot([x, x], [min(values), max(values)], color="lightgrey", zorder=0)
        panel.plot(x, mean, "o", color="tab:blue", markersize=5)
    panel.set_xscale("log")
    panel.set_xlabel("trained parameters on BERT-base")
    panel.set_ylabel("MRPC accuracy with MiniLM")
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()
    taken = [
        mpl.transforms.Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in panel.transData.transform([*points.values()])
    ]
    for flags, point in sorted(points.items(), key=lambda item: item[1][1], reverse=True):
        taken.append(_label(panel, flags.replace("--", ""), point, taken))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


_BESIDE = tuple((5 * side, y, name) for y in (3, -10, 12, -19, 21) for side, name in ((1, "left"), (-1, "right")))
"""Where a name may stand: offset from its point, and which of its sides is there."""


def _label(panel: Any, text: str, point: tuple[float, float], taken: list[Any]) -> Any:
    """Writes a point's name beside it, where no other name stands, and returns the box it takes up."""
    for x, y, side in _BESIDE:
        label = panel.annotate(text, point, xytext=(x, y), textcoords="offset points", fontsize=8, ha=side)
        box = label.get_window_extent()
        if not box.count_overlaps(taken):
            break
        label.set_visible(False)
    label.set_visible(True)  # the last, where none is free
    return box

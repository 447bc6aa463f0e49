"""What the benchmark found, as a table and as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

NAMES = {
    "lora": "LoRA, query and value",
    "lora_all_linear": "LoRA, all linear",
    "bitfit": "BitFit",
    "full": "full",
    "head": "head only",
}


def table(result: dict[str, Any], methods: list[str]) -> str:
    """Markdown: a line for each method and contestant, and how many times as fast kpeft is."""
    ours = [name for name in ("kpeft bfloat16", "kpeft float32") if any(name in result["methods"][m] for m in methods)]
    head = [
        "method",
        "contestant",
        "examples/s",
        "tokens/s",
        "peak GiB",
        "first step s",
        *(f"{name}: times as fast" for name in ours),
    ]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for method in methods:
        for name, figures in result["methods"][method].items():
            lines.append(
                [
                    NAMES[method],
                    name,
                    f"{figures['examples_per_second']:.1f}",
                    f"{figures['tokens_per_second']:.0f}",
                    f"{figures['peak_gib']:.2f}",
                    f"{figures['first_step_seconds']:.1f}",
                    *(ratio(result["methods"][method].get(our), figures) for our in ours),
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio(ours: dict[str, Any] | None, theirs: dict[str, Any]) -> str:
    """Median of the rounds' ratios, with the least and the greatest."""
    if ours is None or ours is theirs:
        return ""
    ratios = [a / b for a, b in zip(ours["turns"], theirs["turns"], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def startup_table(result: dict[str, Any], methods: list[str]) -> str:
    """Markdown: a line for each method, contestant and state of its compiled code; seconds since the start."""
    marks = {"loaded": "loaded s", "first_step": "first step s", "first_evaluation": "first evaluation s"}
    lines = [["method", "contestant", "compiled code", *marks.values()], ["---", "---", "---", *["---:"] * len(marks)]]
    for method in methods:
        for name, states in result["methods"][method].items():
            for state, seconds in states.items():
                lines.append([NAMES[method], name, state, *(spread(seconds[mark]) for mark in marks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(seconds: dict[str, Any]) -> str:
    return f"{seconds['median']:.1f} ({seconds['least']:.1f} to {seconds['greatest']:.1f})"


def plot(result: dict[str, Any], path: Path) -> None:
    """Examples a second of each contestant, method by method."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    methods = list(result["methods"])
    names = list(dict.fromkeys(name for method in methods for name in result["methods"][method]))
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        speeds = [result["methods"][method].get(name, {}).get("examples_per_second", 0) for method in methods]
        bars = axes.bar(
            [m + (i - (len(names) - 1) / 2) * width for m in range(len(methods))], speeds, width, label=name
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axes.set_xticks(range(len(methods)), [NAMES[method] for method in methods])
    axes.set_ylabel("examples/s")
    axes.set_title(
        f"MiniLM, {result['task'].upper()} ({result['source']} rows), batch {result['batch_size']}, "
        f"{result['machine']['cpus']} CPU cores",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)

"""What the accelerator script found: the table, and each target beside its outcome."""

from __future__ import annotations

import statistics
from typing import Any

from experiments.benchmarks.tables import NAMES, ratio

OURS, EAGER, COMPILED = "kpeft bfloat16", "PEFT bf16 autocast", "PEFT bf16 autocast, compiled"
TARGETS = {EAGER: 1.5, COMPILED: 1.1}
MFU_TARGET, MFU_BATCH, TOGETHER_TARGET = 0.45, 128, 3.0


def report(result: dict[str, Any]) -> str:
    """Markdown: device, table, targets, and what was dropped or failed."""
    peaks = result["peak_flops"]
    source = "the data sheet's" if peaks["known"] else "measured in a large product, for want of a known one"
    parts = [
        f"{result['device']}. MFU is of {peaks['used'] / 1e12:.4g} TFLOP/s, {source}; "
        f"a large bfloat16 product reaches {peaks['measured'] / 1e12:.4g}.",
        table(result),
        "\n".join(f"- {line}" for line in targets(result)),
    ]
    troubles = [f"- dropped for want of time: {name}" for name in result["dropped"]]
    troubles += [f"- failed: {place(found)}, {name}: {why}" for found, name, why in failures(result)]
    return "\n\n".join(part for part in (*parts, "\n".join(troubles)) if part)


def place(found: dict[str, Any]) -> str:
    """Where something was measured."""
    return f"{found['model']}, {NAMES[found['method']]}, batch {found['batch_size']}"


def table(result: dict[str, Any]) -> str:
    """Markdown: a line for each model, method, batch size and contestant."""
    head = ["model", "method", "batch", "contestant", "examples/s", "tokens/s", "MFU", "of measured peak", "device GiB"]
    lines = [[*head, "kpeft: times as fast"], [*["---"] * 2, "---:", "---", *["---:"] * 6]]
    for found in result["measurements"]:
        contestants = found["contestants"]
        for name, figures in contestants.items():
            if "failed" in figures:
                continue
            lines.append(
                [
                    found["model"],
                    NAMES[found["method"]],
                    str(found["batch_size"]),
                    name,
                    f"{figures['examples_per_second']:.1f}",
                    f"{figures['tokens_per_second']:.0f}",
                    f"{figures['mfu']:.1%}",
                    f"{figures['share_of_measured_peak']:.1%}",
                    f"{figures['device_gib']:.2f}" if "device_gib" in figures else "",
                    ratio(_held(contestants, OURS), figures),
                ]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def targets(result: dict[str, Any]) -> list[str]:
    """A line for each target: how often it was reached, and the worst case."""
    lines = []
    for peer, target in TARGETS.items():
        ratios = {
            place(found): statistics.median(a / b for a, b in zip(ours["turns"], theirs["turns"], strict=True))
            for found in result["measurements"]
            if (ours := _held(found["contestants"], OURS)) and (theirs := _held(found["contestants"], peer))
        }
        lines.append(_outcome(f"at least {target} times as fast as {peer}", ratios, target, "{:.2f}"))
    shares = {
        place(found): ours["mfu"]
        for found in result["measurements"]
        if found["batch_size"] == MFU_BATCH and (ours := _held(found["contestants"], OURS))
    }
    lines.append(_outcome(f"MFU of at least {MFU_TARGET:.0%} at batch {MFU_BATCH}", shares, MFU_TARGET, "{:.1%}"))
    many, text = result["many_runs"], f"8 runs at once at least {TOGETHER_TARGET} times as fast as in turn"
    if many is None:
        lines.append(f"{text}: not measured")
    elif "failed" in many:
        lines.append(f"{text}: not measured, {many['failed']}")
    else:
        lines.append(
            _outcome(text, {"MiniLM": many["times_as_fast"]}, TOGETHER_TARGET, "{:.2f}")
            + f"; the command as a whole {many['times_as_fast_command']:.2f}"
        )
    return lines


def failures(result: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Who failed where, and why."""
    return [
        (found, name, figures["failed"])
        for found in result["measurements"]
        for name, figures in found["contestants"].items()
        if "failed" in figures
    ]


def _held(contestants: dict[str, Any], name: str) -> dict[str, Any] | None:
    figures: dict[str, Any] = contestants.get(name, {"failed": "did not take part"})
    return None if "failed" in figures else figures


def _outcome(text: str, values: dict[str, float], target: float, form: str) -> str:
    if not values:
        return f"{text}: not measured"
    reached = sum(value >= target for value in values.values())
    worst = min(values, key=lambda name: values[name])
    return (
        f"{text}: {'reached' if reached == len(values) else 'not reached'} ({reached} of {len(values)}); "
        f"least {form.format(values[worst])} ({worst}), greatest {form.format(max(values.values()))}"
    )

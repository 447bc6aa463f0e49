"""How the cost of kpeft's training step grows with length, batch, rank and layers.

    python -m experiments.benchmarks.scaling [--axes length batch] [--methods lora full] [--precision bfloat16]

A BERT encoder of MiniLM's width with random weights trains on random tokens, one axis at a time around a base point.
Each method at each point is a process of its own, so that its peak memory is its own (program and compilation
included). The methods of a point take turns, so that a machine whose speed drifts drifts for all of them. The file is
written after every point; started again, points that it holds are not measured again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.config import PRECISIONS
from kpeft.files import write_json

runtime.prepare()

from experiments.benchmarks.contestants import KINDS  # noqa: E402
from experiments.benchmarks.cost import Encoder, flops_per_token  # noqa: E402
from experiments.benchmarks.curves import plot  # noqa: E402
from experiments.benchmarks.grid import AXES, Point, add, grid, load, missing  # noqa: E402
from experiments.benchmarks.growth import report  # noqa: E402
from experiments.benchmarks.random_model import write_config  # noqa: E402
from experiments.benchmarks.rounds import Entry, compete  # noqa: E402
from experiments.benchmarks.rows import random_rows, write_rows  # noqa: E402
from experiments.benchmarks.setting import METHODS, machine  # noqa: E402
from kpeft.results import installed_versions  # noqa: E402

WIDTH, INNER, HEADS = 384, 1536, 12
ROUNDS, MOST_STEPS = 3, 5


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "scaling.json"
    try:
        result = load(file, settings())
    except ValueError as error:
        sys.exit(str(error))
    points = grid(options.precision, options.axes)
    wanted = [(point, methods) for point in points if (methods := missing(result, point, options.methods))]
    say(f"{len(points)} points, {len(points) - len(wanted)} of them already in {file}")
    begun = time.perf_counter()
    for number, (point, methods) in enumerate(wanted, 1):
        figures = measure(point, methods)
        add(result, point, {name: found for name, found in figures.items() if "failed" not in found})
        write_json(file, result)
        took = time.perf_counter() - begun
        say(f"[{number}/{len(wanted)}] {point}: {outcome(figures)}; {took:.0f} s so far")
    write_reports(result, options.output)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.scaling", description=__doc__)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=("bfloat16", "float32"))
    parser.add_argument("--output", type=Path, default=Path("experiments/results/scaling"))
    return parser.parse_args()


def settings() -> dict[str, Any]:
    """What all points of a file have in common."""
    return {
        "width": WIDTH,
        "inner": INNER,
        "heads": HEADS,
        "rounds": ROUNDS,
        "most_steps": MOST_STEPS,
        "machine": machine(),
        "versions": installed_versions(),
    }


def measure(point: Point, methods: list[str]) -> dict[str, dict[str, Any]]:
    """Lets the methods train at a point, and returns the figures of each."""
    encoder = Encoder(layers=point.layers, width=WIDTH, inner=INNER)
    kind = next(kind for kind in KINDS if kind.name == f"kpeft {point.precision}")
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npz"
        write_rows(rows, random_rows(16 * point.batch, point.length, "bert"))
        told = {
            "rows": str(rows),
            "batch_size": point.batch,
            "rank": point.rank,
            "preset": str(write_config(Path(scratch) / "model", encoder, family="bert", heads=HEADS)),
            "random_weights": True,
        }
        figures = compete(
            [Entry(method, kind, told | {"method": method}) for method in methods],
            rounds=ROUNDS,
            warm_steps=1,
            most_steps=MOST_STEPS,
            at_once=len(os.sched_getaffinity(0)),
            peer_python=sys.executable,
            log=Path(scratch),
        )
    tokens = point.batch * point.length
    for method, found in figures.items():
        if "failed" not in found:  # whatever else a machine does only ever adds time
            found["seconds_per_step"] = point.batch / max(found["turns"])
        found["flops_per_step"] = tokens * flops_per_token(encoder, method, point.length, point.rank)
    return figures


def outcome(figures: dict[str, dict[str, Any]]) -> str:
    """A point's figures in a line."""
    return ", ".join(
        f"{method} failed ({found['failed']})" if "failed" in found else f"{method} {found['seconds_per_step']:.3f} s"
        for method, found in figures.items()
    )


def write_reports(result: dict[str, Any], folder: Path) -> None:
    """Writes tables and pictures of all that a result holds."""
    measured = {point["precision"] for point in result["points"].values()}
    precisions = [precision for precision in ("bfloat16", "float32") if precision in measured]
    text = "\n\n".join(report(result, precision) for precision in precisions)
    (folder / "scaling.md").write_text(text + "\n", encoding="utf-8")
    for precision in precisions:
        plot(result, precision, folder / f"scaling_{precision}.png")
    say(text)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

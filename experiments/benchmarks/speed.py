"""Examples a second of kpeft, Hugging Face PEFT and KerasHub, in turn on the same machine and rows.

    python -m experiments.benchmarks.speed --data-dir GLUE_FOLDER --peer-python PEERS/bin/python

Each contestant is a process of its own. All train the same method at the same time, but only one computes: they take
turns of `--steps` steps, so that a machine whose speed drifts drifts for all of them. A ratio is of two contestants'
turns of the same round; its spread is the least and the greatest of the rounds. Of the first step, the time since the
process's start is noted; the turn after it is for warming up. kpeft finds what an earlier run compiled: startup.py has
start-up with and without that. Where it meets a new length later, that step is left out.
Rows are those of `--task` in `--data-dir`, or the bundled sample's. They come in batches of `--batch-size`: kpeft pads
to a few lengths, Hugging Face to the longest of each batch, KerasHub to `--max-length`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import write_json

runtime.prepare()

from experiments.benchmarks import setting  # noqa: E402
from experiments.benchmarks.contestants import Contestant, Turn, summary  # noqa: E402
from experiments.benchmarks.cost import Encoder, flops_per_token, measure_peak  # noqa: E402
from experiments.benchmarks.tables import plot, table  # noqa: E402

MINILM = Encoder(layers=6, width=384, inner=1536)


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        result = setting.describe(options, Path(scratch)) | {
            "steps": options.steps,
            "peak_flops": {dtype: measure_peak(dtype) for dtype in ("float32", "bfloat16")},
        }
        for method in options.methods:
            result["methods"][method] = compete(method, options, Path(scratch))
            add_efficiency(method, result)
            write_json(options.output / "speed.json", result)
            sys.stdout.write(table(result, [method]) + "\n")
    (options.output / "speed.md").write_text(table(result, list(result["methods"])) + "\n", encoding="utf-8")
    plot(result, options.output / "speed.png")


def parse() -> argparse.Namespace:
    parser = setting.make_parser("speed", __doc__)
    parser.add_argument("--steps", type=int, default=32, help="steps of a turn (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up (default 3)")
    return setting.parse(parser)


def compete(method: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """One method: every contestant, turn by turn."""
    told = setting.worker_options(method, options, scratch)
    kinds = setting.chosen_kinds(options)
    turns: dict[str, list[Turn]] = {kind.name: [] for kind in kinds}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(
                Contestant(kind, told, peer_python=options.peer_python, log=setting.log_file(scratch, method, kind))
            )
            for kind in kinds
        ]
        first = {c.kind.name: c.load_seconds + c.take_turn(1).seconds for c in contestants}
        for contestant in contestants:
            contestant.take_turn(options.steps)
        for _ in range(options.repeats):
            for contestant in contestants:
                turns[contestant.kind.name].append(contestant.take_turn(options.steps))
    return {name: summary(taken) | {"first_step_seconds": first[name]} for name, taken in turns.items()}


def add_efficiency(method: str, result: dict[str, Any]) -> None:
    """Adds the share of the machine's measured peak that kpeft's useful work comes to."""
    needed = flops_per_token(MINILM, method, result["tokens"]["weighted"])
    for precision in ("float32", "bfloat16"):
        contestant = result["methods"][method].get(f"kpeft {precision}")
        if contestant is not None:
            contestant["share_of_peak"] = contestant["tokens_per_second"] * needed / result["peak_flops"][precision]


if __name__ == "__main__":
    main()

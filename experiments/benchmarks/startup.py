"""How long kpeft, Hugging Face PEFT and KerasHub take from the process's start to the first step and evaluation.

    python -m experiments.benchmarks.startup --data-dir GLUE_FOLDER --methods lora full --peer-python PEERS/bin/python

Each contestant of speed.py starts alone, trains one batch, evaluates the first 408 validation rows at most, and ends;
then it is the next one's turn, `--repeats` times over. Times are those on the clock since the process was started:
loaded (model and method are there), first step (and all before it), first evaluation (and all before it). What an
encoder that is frozen as a whole computes once for all rows comes before kpeft's first step.

kpeft starts twice: cold, with an empty folder for compiled code, and warm, with what the cold start left there. The
others come as they are: torch compiles nothing, and KerasHub keeps nothing compiled. One start of each library before
all others is not measured, so that all find their files in the system's memory, and Python's modules compiled. Rows are
tokenised beforehand; batches are as in speed.py, in the evaluation of 64 rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import write_json

runtime.prepare()

from experiments.benchmarks import setting  # noqa: E402
from experiments.benchmarks.contestants import Contestant, Kind  # noqa: E402
from experiments.benchmarks.rows import read_rows  # noqa: E402
from experiments.benchmarks.tables import startup_table  # noqa: E402


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        result = setting.describe(options, Path(scratch))
        for kind in {kind.module: kind for kind in setting.chosen_kinds(options)}.values():
            starts(kind, options.methods[0], options, Path(scratch))
        for method in options.methods:
            result["methods"][method] = measure(method, options, Path(scratch))
            write_json(options.output / "startup.json", result)
            sys.stdout.write(startup_table(result, [method]) + "\n")
    (options.output / "startup.md").write_text(startup_table(result, options.methods) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = setting.make_parser("startup", __doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measured starts of each (default 3)")
    return setting.parse(parser)


def measure(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One method: every contestant, `--repeats` times."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(options.repeats):
        for kind in setting.chosen_kinds(options):
            for state, seconds in starts(kind, method, options, folder).items():
                found.setdefault(kind.name, {}).setdefault(state, []).append(seconds)
    return {name: {state: summary(taken) for state, taken in states.items()} for name, states in found.items()}


def starts(kind: Kind, method: str, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """Starts a contestant, kpeft cold and then warm.

    Returns:
        Seconds of each mark, by the state of the compiled code.
    """
    states = ("cold", "warm") if kind.module == "kpeft_worker" else ("as it comes",)
    with tempfile.TemporaryDirectory() as compiled:
        return {state: start(kind, method, options, folder, Path(compiled)) for state in states}


def start(kind: Kind, method: str, options: argparse.Namespace, folder: Path, compiled: Path) -> dict[str, float]:
    """Starts a contestant once, with a folder for what it compiles; returns the seconds of each mark."""
    told = setting.worker_options(method, options, folder)
    log = setting.log_file(folder, method, kind)
    with Contestant(kind, told, peer_python=options.peer_python, log=log, compiled=compiled) as contestant:
        contestant.take_turn(1)
        first_step = contestant.age()
        evaluated = contestant.evaluate()
        first_evaluation = contestant.age()
    assert evaluated == len(read_rows(told["validation"])), (kind.name, evaluated)
    return {"loaded": contestant.load_seconds, "first_step": first_step, "first_evaluation": first_evaluation}


def summary(taken: list[dict[str, float]]) -> dict[str, Any]:
    """Median, least and greatest of each mark over the starts."""
    return {
        mark: {
            "median": statistics.median(seconds),
            "least": min(seconds),
            "greatest": max(seconds),
            "starts": seconds,
        }
        for mark in taken[0]
        for seconds in [[start[mark] for start in taken]]
    }


if __name__ == "__main__":
    main()

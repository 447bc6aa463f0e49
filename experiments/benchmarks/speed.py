"""Examples a second of kpeft, Hugging Face PEFT and KerasHub, in turn on the same machine and rows.

    python -m experiments.benchmarks.speed --data-dir GLUE_FOLDER --peer-python PEERS/bin/python

Each contestant is a process of its own. All train the same method at the same time, but only one computes: they take
turns of `--steps` steps, so that a machine whose speed drifts drifts for all of them. A ratio is of two contestants'
turns of the same round; its spread is the least and the greatest of the rounds. Of the first step, the time since the
process's start is noted; the turn after it is for warming up. kpeft finds what an earlier run compiled: for a cold
start, name an empty folder in JAX_COMPILATION_CACHE_DIR. Where it meets a new length later, that step is left out.
Rows come in batches of `--batch-size`: kpeft pads to a few lengths, Hugging Face to the longest of each batch, KerasHub
to `--max-length`. Without `--data-dir` the rows are the bundled sample's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import write_json

runtime.prepare()

from experiments.benchmarks.contestants import ABLATIONS, KINDS, Contestant, Turn, summary  # noqa: E402
from experiments.benchmarks.cost import Encoder, flops_per_token, measure_peak  # noqa: E402
from experiments.benchmarks.rows import read_rows, write_rows  # noqa: E402
from experiments.benchmarks.tables import plot, table  # noqa: E402

METHODS = ("lora", "lora_all_linear", "bitfit", "full", "head")
MINILM = Encoder(layers=6, width=384, inner=1536)


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        rows = Path(scratch) / "rows.npz"
        result = describe(options, rows)
        for method in options.methods:
            result["methods"][method] = compete(method, rows, options, Path(scratch))
            add_efficiency(method, result)
            write_json(options.output / "speed.json", result)
            sys.stdout.write(table(result, [method]) + "\n")
    (options.output / "speed.md").write_text(table(result, list(result["methods"])) + "\n", encoding="utf-8")
    plot(result, options.output / "speed.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.speed", description=__doc__)
    parser.add_argument("--data-dir", help="folder of GLUE TSVs; without it the bundled sample")
    parser.add_argument("--task", default="mrpc", help="mrpc, cola, … (default mrpc)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument(
        "--contestants",
        nargs="+",
        metavar="NAME",
        choices=[kind.name for kind in (*KINDS, *ABLATIONS)],
        default=[kind.name for kind in KINDS],
        help=f"default: all of the first five of {', '.join(repr(kind.name) for kind in (*KINDS, *ABLATIONS))}",
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has peers.txt installed")
    parser.add_argument("--steps", type=int, default=32, help="steps of a turn (default 32)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after the warm-up (default 3)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/speed"))
    return parser.parse_args()


def describe(options: argparse.Namespace, rows: Path) -> dict[str, Any]:
    """Writes the rows and returns what is measured on what."""
    import numpy as np

    from kpeft.backbones import load_backbone
    from kpeft.glue.sources import open_source
    from kpeft.glue.tasks import get_task
    from kpeft.glue.tokens import encode
    from kpeft.results import installed_versions

    task = get_task(options.task)
    source = open_source(data_dir=options.data_dir, tfds_dir=None, offline=options.data_dir is None)
    tokenizer = load_backbone("minilm", 2, load_weights=False).tokenizer
    encoded = encode(source.rows(task, "train"), tokenizer, options.max_length)
    write_rows(rows, encoded)
    lengths = read_rows(str(rows)).lengths
    return {
        "task": options.task,
        "source": source.name,
        "rows": len(lengths),
        "tokens": {
            "mean": float(lengths.mean()),
            "weighted": float((lengths**2).mean() / lengths.mean()),
            **{f"p{p}": float(np.percentile(lengths, p)) for p in (5, 50, 95)},
        },
        "batch_size": options.batch_size,
        "steps": options.steps,
        "repeats": options.repeats,
        "machine": {"processor": processor(), "cpus": len(os.sched_getaffinity(0))},
        "versions": installed_versions(),
        "peak_flops": {dtype: measure_peak(dtype) for dtype in ("float32", "bfloat16")},
        "methods": {},
    }


def processor() -> str:
    """The processor's name and what of it matters here."""
    name, features = runtime.processor()
    units = [unit for unit in ("avx512f", "avx512_bf16", "amx_bf16") if unit in features.split()]
    return f"{name} ({', '.join(units)})"


def compete(method: str, rows: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """One method: every contestant, turn by turn."""
    from kpeft.backbones.minilm import minilm_folder

    told = {
        "method": method,
        "rows": str(rows),
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "preset": str(minilm_folder()),
        "random_weights": False,
        "rank": 8,
    }
    kinds = [kind for kind in (*KINDS, *ABLATIONS) if kind.name in options.contestants]
    turns: dict[str, list[Turn]] = {kind.name: [] for kind in kinds}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(
                Contestant(
                    kind,
                    told,
                    peer_python=options.peer_python,
                    log=scratch / f"{method}-{kind.name}.log".replace(" ", "-"),
                )
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

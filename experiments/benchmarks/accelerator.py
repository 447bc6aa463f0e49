"""Everything to measure on one GPU, in under ten minutes: kpeft beside Hugging Face PEFT, and many runs at once.

    python -m experiments.benchmarks.accelerator --peer-python PEERS/bin/python [--minutes 9]

BERT-base and RoBERTa-base with random weights train on random tokens of one length, so that nothing is downloaded and
nothing is padding. Contestants share the GPU, load side by side, and take turns, as in speed.py: only one computes.
What does not fit into `--minutes` is dropped, the last of this order first: BERT LoRA, many runs, BERT full, BERT
BitFit, RoBERTa LoRA, RoBERTa full, RoBERTa BitFit. The file is written after each.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import write_json

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # for all processes: several share the GPU
runtime.prepare()

from experiments.benchmarks.budget import Measurement, run_within  # noqa: E402
from experiments.benchmarks.contestants import COMPILED_PEER, KINDS  # noqa: E402
from experiments.benchmarks.cost import Encoder, flops_per_token, known_peak, measure_peak  # noqa: E402
from experiments.benchmarks.many_runs import compare  # noqa: E402
from experiments.benchmarks.random_model import write_config  # noqa: E402
from experiments.benchmarks.rounds import Entry, compete  # noqa: E402
from experiments.benchmarks.rows import random_rows, write_rows  # noqa: E402
from experiments.benchmarks.verdict import EAGER, OURS, report  # noqa: E402
from kpeft.results import installed_versions  # noqa: E402

MODELS = {"BERT": "bert", "RoBERTa": "roberta"}
METHODS = ("lora", "full", "bitfit")
_ROOMY = 64 * 2**30  # with less memory, one batch size is measured at a time


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    encoder: Encoder
    heads: int
    batches: tuple[int, ...]
    length: int
    steps: int
    rounds: int
    runs_steps: int
    peak_size: int


FULL = Scale(Encoder(layers=12, width=768, inner=3072), 12, (32, 128), 128, 100, 5, 600, 8192)
SMALL = Scale(Encoder(layers=2, width=64, inner=256), 2, (4,), 16, 2, 2, 8, 512)


def main() -> None:
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    scale = SMALL if options.small else FULL
    result = describe(scale)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        several = memory() >= _ROOMY
        groups = [scale.batches] if several else [(batch,) for batch in scale.batches]
        contests = [
            Measurement(
                f"{model} {method}, batch {' and '.join(map(str, batches))}",
                "contest",
                partial(contest, result, options, scale, place, model, method, batches),
            )
            for model in MODELS
            for method in METHODS
            for batches in groups
        ]
        runs = Measurement("many runs", "many runs", partial(many_runs, result, options, scale, place))
        order = [*contests[: len(groups)], runs, *contests[len(groups) :]]
        result["dropped"] = run_within(60 * options.minutes, order)
    save(result, options.output)
    sys.stdout.write(report(result) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.accelerator", description=__doc__)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has peers.txt installed")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything (default 9)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try this script on a CPU")
    parser.add_argument("--output", type=Path, default=Path("experiments/results/accelerator"))
    return parser.parse_args()


def describe(scale: Scale) -> dict[str, Any]:
    """Returns what is measured on what, and the device's peak."""
    import jax

    device = jax.local_devices()[0]
    known = known_peak(device.device_kind)
    measured = measure_peak("bfloat16", size=scale.peak_size, chain=8)
    say(f"{device.device_kind}: {measured / 1e12:.4g} TFLOP/s in a bfloat16 product of {scale.peak_size}²")
    return {
        "device": device.device_kind,
        "peak_flops": {"known": known, "measured": measured, "used": known or measured},
        "versions": installed_versions(),
        "length": scale.length,
        "measurements": [],
        "many_runs": None,
        "dropped": [],
    }


def memory() -> int:
    """Bytes of the device's memory that JAX may use, 0 if it does not say."""
    import jax

    return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0))


def contest(
    result: dict[str, Any],
    options: argparse.Namespace,
    scale: Scale,
    scratch: Path,
    model: str,
    method: str,
    batches: tuple[int, ...],
    left: float,
) -> None:
    """Lets all contestants train a model with a method, at some batch sizes at once."""
    say(f"{model} {method}, batch {' and '.join(map(str, batches))} ({left:.0f} s left)")
    family = MODELS[model]
    rows = scratch / f"{family}.npz"
    write_rows(rows, random_rows(8 * max(batches), scale.length, family))
    told = {
        "method": method,
        "rank": 8,
        "rows": str(rows),
        "preset": str(write_config(scratch / family, scale.encoder, family=family, heads=scale.heads)),
        "random_weights": True,
    }
    kinds = [*(kind for kind in KINDS if kind.name in (OURS, EAGER)), COMPILED_PEER]
    entries = [
        Entry(f"{kind.name} {batch}", kind, told | {"batch_size": batch}, alone=kind.name == OURS)
        for batch in batches
        for kind in kinds
    ]
    found = compete(
        entries,
        rounds=scale.rounds,
        warm_steps=min(3, scale.steps),
        most_steps=scale.steps,
        at_once=os.cpu_count() or 1,
        peer_python=options.peer_python,
        log=scratch,
    )
    needed = flops_per_token(scale.encoder, method, scale.length, rank=8)
    for batch in batches:
        contestants = {kind.name: found[f"{kind.name} {batch}"] for kind in kinds}
        for figures in contestants.values():
            if "failed" not in figures:
                flops = figures["tokens_per_second"] * needed
                figures["mfu"] = flops / result["peak_flops"]["used"]
                figures["share_of_measured_peak"] = flops / result["peak_flops"]["measured"]
        result["measurements"].append(
            {"model": model, "method": method, "batch_size": batch, "contestants": contestants}
        )
    save(result, options.output)


def many_runs(result: dict[str, Any], options: argparse.Namespace, scale: Scale, scratch: Path, left: float) -> None:
    """Compares 8 runs at once with as many in turn."""
    say(f"8 runs at once ({left:.0f} s left)")
    result["many_runs"] = compare(scratch, scale.runs_steps, left)
    save(result, options.output)


def save(result: dict[str, Any], folder: Path) -> None:
    write_json(folder / "accelerator.json", result)
    (folder / "accelerator.md").write_text(report(result) + "\n", encoding="utf-8")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

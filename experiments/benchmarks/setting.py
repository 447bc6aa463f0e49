"""What speed.py and startup.py have in common: their options, the rows of a task, and what is measured on what."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.contestants import ABLATIONS, KINDS, Kind
from experiments.benchmarks.rows import write_rows
from kpeft import runtime
from kpeft.glue.sources import open_source
from kpeft.glue.tasks import TASKS
from kpeft.glue.tokens import encode
from kpeft.results import installed_versions

METHODS = ("lora", "lora_all_linear", "bitfit", "full", "head")
RESULTS = Path("experiments/results")
# As many validation rows as MRPC has, of any task.
MOST_VALIDATION_ROWS = 408


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of the options that both commands have."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.benchmarks.{name}", description=description)
    parser.add_argument("--data-dir", help="folder of GLUE TSVs; without it the bundled sample")
    tasks = [task.name for task in TASKS.values() if task.num_classes == 2 and task.train]
    parser.add_argument("--task", choices=tasks, default="mrpc", help=f"{', '.join(tasks)} (default mrpc)")
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
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--output", type=Path, help=f"folder (default {RESULTS}/speed, or speed_TASK)")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line; tasks other than MRPC go to folders of their own."""
    options = parser.parse_args()
    options.output = options.output or RESULTS / ("speed" if options.task == "mrpc" else f"speed_{options.task}")
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def chosen_kinds(options: argparse.Namespace) -> list[Kind]:
    """The contestants asked for."""
    return [kind for kind in (*KINDS, *ABLATIONS) if kind.name in options.contestants]


def describe(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Writes rows.npz and validation.npz into a folder and returns what is measured on what."""
    from kpeft.backbones import load_backbone

    task = TASKS[options.task]
    source = open_source(data_dir=options.data_dir, offline=options.data_dir is None)
    tokenizer = load_backbone("minilm", 2, load_weights=False).tokenizer
    train = encode(source.rows(task, "train"), tokenizer, options.max_length)
    split = next(iter(task.validation.values()))
    validation = encode(source.rows(task, split).head(MOST_VALIDATION_ROWS), tokenizer, options.max_length)
    write_rows(folder / "rows.npz", train)
    write_rows(folder / "validation.npz", validation)
    return {
        "task": options.task,
        "source": source.name,
        "rows": len(train),
        "tokens": token_counts(train.lengths),
        "validation": {"rows": len(validation), "tokens": token_counts(validation.lengths)},
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "repeats": options.repeats,
        "machine": machine(),
        "versions": installed_versions(),
        "methods": {},
    }


def token_counts(lengths: np.ndarray) -> dict[str, float]:
    """How long rows are, in tokens; `weighted` is the length of the row that a token is in, on average."""
    return {
        "mean": float(lengths.mean()),
        "weighted": float((lengths**2).mean() / lengths.mean()),
        "p5": float(np.percentile(lengths, 5)),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "longest": int(lengths.max()),
    }


def machine() -> dict[str, Any]:
    """The processor's name and what of it matters here, and how many cores there are."""
    name, features = runtime.processor()
    units = [unit for unit in ("avx512f", "avx512_bf16", "amx_bf16") if unit in features.split()]
    return {"processor": f"{name} ({', '.join(units)})", "cpus": len(os.sched_getaffinity(0))}


def worker_options(method: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What the contestants that train a method are told; `folder` is that of `describe`."""
    from kpeft.backbones.minilm import minilm_folder

    return {
        "method": method,
        "rows": str(folder / "rows.npz"),
        "validation": str(folder / "validation.npz"),
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "preset": str(minilm_folder()),
        "random_weights": False,
        "rank": 8,
    }


def log_file(folder: Path, method: str, kind: Kind) -> Path:
    """Where what a contestant prints goes."""
    return folder / f"{method}-{kind.name}.log".replace(" ", "-")

"""How many positions an epoch's batches hold for each token, padded as kpeft pads them and in two other ways.

    python -m experiments.benchmarks.padding --data-dir GLUE_FOLDER --task cola

One is what no padding to fixed lengths can better: each batch as long as its longest row. Writes nothing.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from kpeft import runtime

runtime.prepare()

from kpeft.backbones import load_backbone  # noqa: E402
from kpeft.glue.sources import open_source  # noqa: E402
from kpeft.glue.tasks import TASKS  # noqa: E402
from kpeft.glue.tokens import encode  # noqa: E402
from kpeft.training.batches import epoch_order  # noqa: E402
from kpeft.training.widths import choose_widths, fit_width  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.padding", description=__doc__)
    parser.add_argument("--data-dir", help="folder of GLUE TSVs; without it the bundled sample")
    parser.add_argument("--task", choices=[task.name for task in TASKS.values() if task.train], default="mrpc")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    options = parser.parse_args()
    task = TASKS[options.task]
    assert task.train is not None
    source = open_source(data_dir=options.data_dir, offline=options.data_dir is None)
    tokenizer = load_backbone("minilm", 2, load_weights=False).tokenizer
    lengths = encode(source.rows(task, task.train), tokenizer, options.max_length).lengths
    for name, share in positions(lengths, options.batch_size).items():
        sys.stdout.write(f"{options.task}, {name}: {share:.2f} positions for each token\n")


def positions(lengths: np.ndarray, batch_size: int) -> dict[str, float]:
    """Returns the positions for each token in the first epoch of seed 0, by how batches are padded."""
    ordered = lengths[epoch_order(lengths, batch_size, seed=0, epoch=0)]
    longest = np.maximum.reduceat(ordered, np.arange(0, len(ordered), batch_size))
    widths = {
        "as kpeft pads": fit_width(choose_widths(lengths), longest),
        "to multiples of 8": fit_width(choose_widths(lengths, multiple=8), longest),
        "to each batch's longest row": longest,
    }
    return {name: float(each.sum() * batch_size / lengths.sum()) for name, each in widths.items()}


if __name__ == "__main__":
    main()

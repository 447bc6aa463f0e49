"""The flags that recipes share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from kpeft.config import PRECISIONS
from kpeft.report.__main__ import OneLineParser


def parse(
    doc: str | None,
    tasks: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    add_flags: Callable[[argparse.ArgumentParser], None] | None = None,
    settle: Callable[[argparse.Namespace], None] | None = None,
    arguments: Sequence[str] | None = None,
) -> argparse.Namespace:
    """Returns the flags of a recipe; see `recipe.main`.

    Raises:
        ValueError: If one is wrong.
    """
    name = Path(getattr(sys.modules["__main__"], "__file__", None) or "recipe").stem
    parser = OneLineParser(
        prog=f"python -m experiments.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", help="instead of the recipe's own, such as minilm")
    add("--data-dir", help="folder of GLUE TSVs; without it tensorflow-datasets loads them")
    add("--offline", action="store_true", help="packaged encoder and bundled sample rows; touches no network")
    add("--tasks", nargs="+", choices=tasks, default=list(tasks), help=f"(default {' '.join(tasks)})")
    add("--seeds", nargs="+", type=int, help=f"(default {' '.join(map(str, seeds))})")
    add("--limit", type=int, help="use only so many training rows")
    add("--epochs", type=int, help="instead of the recipe's own")
    add("--precision", default="float32", choices=PRECISIONS, help="(default float32)")
    add("--jobs", type=int, default=1, help="processes side by side, each on its share of the cores (default 1)")
    add(
        "--at-once",
        action="store_true",
        help="train a sweep's runs in one process, as an accelerator does faster; one that is broken off begins anew",
    )
    add("--output", type=Path, help=f"(default runs/{name})")
    if add_flags is not None:
        add_flags(parser)
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise ValueError(f"--jobs {options.jobs}: give 1 or more processes.")
    if settle is not None:
        settle(options)
    options.seeds = list(dict.fromkeys(options.seeds or seeds))
    options.output = options.output or Path("runs") / name
    return options

"""What of a folder of runs is small enough to keep in a repository: results, thinned curves, the page's Markdown.

    python -m experiments.keep runs/rank_sweep experiments/results/rank_sweep

Of each run that has ended: result.json and hardware.json as they are, and of its history every evaluation as it is and
at most 50 training losses, each the mean of the steps since the one before, as the page draws them. Adapters and
checkpoints stay behind. The report is then written from what was kept, so that every number of it is in a file beside.

Exit status: as of `python -m kpeft.report`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from kpeft.files import write_bytes
from kpeft.hardware import HARDWARE
from kpeft.report.__main__ import main as write_report
from kpeft.report.collect import collect
from kpeft.report.curves import POINTS
from kpeft.results import FILE, HISTORY, RUNS

AS_THEY_ARE = (FILE, HARDWARE, RUNS, "table.md")


def keep(source: Path, target: Path) -> None:
    """Copies what is kept from one folder to the other; what lies there under the same name is replaced.

    Raises:
        ValueError: If there is no run in `source` that can be read.
    """
    for folder in (".", *(run.folder for run in collect(source).runs)):
        for name in AS_THEY_ARE:
            if (source / folder / name).is_file():
                write_bytes(target / folder / name, (source / folder / name).read_bytes())
        if (source / folder / HISTORY).is_file():
            lines = (source / folder / HISTORY).read_text(encoding="utf-8").splitlines()
            write_bytes(target / folder / HISTORY, "".join(f"{line}\n" for line in thinned(lines)).encode())


def thinned(lines: Iterable[str]) -> list[str]:
    """Returns a history's lines with every evaluation and at most 50 training losses, which are means."""
    lines = list(lines)
    parsed = [json.loads(line) for line in lines]
    count = sum("loss" in each for each in parsed)
    width, seen = -(-count // POINTS), 0
    kept: list[str] = []
    losses: list[float] = []
    for line, each in zip(lines, parsed, strict=True):
        if "loss" not in each:
            kept.append(line)
            continue
        losses.append(each["loss"])
        seen += 1
        if len(losses) == width or seen == count:
            kept.append(json.dumps({**each, "loss": statistics.fmean(losses)}))
            losses = []
    return kept


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.keep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, metavar="FROM", help="folder of runs, such as runs/rank_sweep")
    parser.add_argument("target", type=Path, metavar="TO", help="folder in the repository")
    parser.add_argument("--evaluation", choices=("last", "best"), default="last", help="as of kpeft.report")
    options = parser.parse_args()
    try:
        keep(options.source, options.target)
    except ValueError as error:
        sys.stderr.write(f"experiments: {error}\n")
        return 2
    return write_report([str(options.target), "--evaluation", options.evaluation])


if __name__ == "__main__":
    sys.exit(main())

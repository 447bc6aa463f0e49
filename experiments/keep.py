"""What of a folder of runs is small enough to keep in a repository: results, thinned curves, the page's Markdown.

    python -m experiments.keep runs/rank_sweep experiments/results/rank_sweep

Of each run that has ended: result.json and hardware.json as they are, and of its history every evaluation as it is and
at most 50 training losses, each the mean of the steps since the one before. Adapters and checkpoints stay behind. The
report is then written from what was kept, so that every number of it is in a file beside.

Exit status: as of `python -m kpeft.report`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from kpeft.files import write_bytes
from kpeft.hardware import HARDWARE
from kpeft.report.__main__ import main as write_report
from kpeft.report.answer import ANSWER
from kpeft.report.collect import collect
from kpeft.report.curves import POINTS
from kpeft.results import FILE, HISTORY, RUNS


def keep(source: Path, target: Path) -> None:
    """Copies what is kept from one folder to the other; what lies there under the same name is replaced.

    Raises:
        ValueError: If there is no run in `source` that can be read, or a history is damaged.
    """
    ended = [source / run.folder for run in collect(source).runs]
    histories = {folder / HISTORY: thinned(folder / HISTORY) for folder in ended if (folder / HISTORY).is_file()}
    for path in (
        source / ANSWER,
        *source.rglob(RUNS),
        *(folder / name for folder in ended for name in (FILE, HARDWARE)),
    ):
        if path.is_file():
            write_bytes(target / path.relative_to(source), path.read_bytes())
    for path, text in histories.items():
        write_bytes(target / path.relative_to(source), text.encode())


def thinned(path: Path) -> str:
    """Returns a history with every evaluation and at most 50 training losses, which are means.

    Raises:
        ValueError: If a line is damaged.
    """
    try:
        lines = [(line, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        steps = [line["loss"] for _, line in lines if "metrics" not in line]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has a damaged line: {error!r}") from error
    width, seen = -(-len(steps) // POINTS), 0
    kept = []
    for text, line in lines:
        if "metrics" in line:
            kept.append(text)
            continue
        seen += 1
        if seen % width == 0 or seen == len(steps):
            mean = statistics.fmean(steps[(seen - 1) // width * width : seen])
            kept.append(json.dumps({**line, "loss": mean}))
    return "".join(f"{text}\n" for text in kept)


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

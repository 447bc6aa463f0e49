"""What of a folder of runs is small enough to keep in a repository: results, thinned curves, the page's Markdown.

    python -m experiments.keep runs/rank_sweep experiments/results/rank_sweep

Of each run that has ended: result.json and hardware.json as they are, and of its history every evaluation as it is and
the training losses as the page draws them: means over as many steps for all runs of a task, at most 50 of each run.
Adapters and checkpoints stay behind. The report is then written from what was kept, so that every number of it is in a
file beside.

Exit status: as of `python -m kpeft.report`.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from kpeft.files import write_bytes
from kpeft.hardware import HARDWARE
from kpeft.report.__main__ import OneLineParser
from kpeft.report.__main__ import main as write_report
from kpeft.report.answer import ANSWER
from kpeft.report.collect import collect
from kpeft.report.curves import width_of
from kpeft.results import FILE, HISTORY, RUNS


def keep(source: Path, target: Path) -> None:
    """Copies what is kept from one folder to the other; what lies there under the same name is replaced.

    Raises:
        ValueError: If no run in `source` can be read, a history is damaged, or one folder is in the other.
    """
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ValueError(f"FROM {str(source)!r} and TO {str(target)!r} are one folder or one is in the other.")
    found = collect(source)
    for note in found.notes:
        sys.stderr.write(f"experiments: {note}\n")
    ended = {source / run.folder: run.result.task for run in found.runs}
    widths = {task: width_of(run for run in found.runs if run.result.task == task) for task in ended.values()}
    histories = {
        folder / HISTORY: thinned(folder / HISTORY, widths[task])
        for folder, task in ended.items()
        if (folder / HISTORY).is_file()
    }
    for path in (
        source / ANSWER,
        *source.rglob(RUNS),
        *(folder / name for folder in ended for name in (FILE, HARDWARE)),
    ):
        if path.is_file():
            write_bytes(target / path.relative_to(source), path.read_bytes())
    for path, text in histories.items():
        write_bytes(target / path.relative_to(source), text.encode())


def thinned(path: Path, width: int) -> str:
    """Returns a history with every evaluation, and of the training losses the means of `width` steps each.

    Raises:
        ValueError: If a line is damaged.
    """
    try:
        lines = [(line, json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        bins: dict[int, list[Any]] = defaultdict(list)
        for _, line in lines:
            if "metrics" not in line:
                bins[-(-line["step"] // width)].append(line)
        # Each mean where its last step was, between the same evaluations.
        means = {id(each[-1]): {**each[-1], "loss": fmean(line["loss"] for line in each)} for each in bins.values()}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has a damaged line: {error!r}") from error
    kept = []
    for text, line in lines:
        if "metrics" in line:
            kept.append(text)
        elif id(line) in means:
            kept.append(json.dumps(means[id(line)]))
    return "".join(f"{text}\n" for text in kept)


def main() -> int:
    """Runs the command line and returns the exit status."""
    parser = OneLineParser(prog="python -m experiments.keep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, metavar="FROM", help="folder of runs, such as runs/rank_sweep")
    parser.add_argument("target", type=Path, metavar="TO", help="folder in the repository")
    parser.add_argument("--evaluation", choices=("last", "best"), default="last", help="as of kpeft.report")
    try:
        options = parser.parse_args()
        keep(options.source, options.target)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"experiments: {error}\n")
        return 2
    return write_report([str(options.target), "--evaluation", options.evaluation])


if __name__ == "__main__":
    sys.exit(main())

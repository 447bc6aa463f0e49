"""What is printed of runs that have ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpeft.config import RunConfig
    from kpeft.many_runs import Ended
    from kpeft.results import RunResult, Score

_SAMPLE = "These are made-up sample rows: the scores say nothing about GLUE."


def print_result(result: RunResult, config: RunConfig) -> None:
    """Prints a run's scores."""
    lines = [_what(result), *(_scores(result))]
    if result.data["source"] == "sample":
        lines.append(_SAMPLE)
    lines.append(f"{result.timing['total_seconds']:.0f} s; files in {config.output_dir}")
    sys.stdout.write("\n".join(lines) + "\n")


def print_runs(ended: Sequence[Ended], folder: Path) -> None:
    """Prints the scores of several runs."""
    results = {Path(each.config.output_dir).name: each.result for each in ended if each.result}
    lines = []
    for name, result in results.items():
        lines += [name, _what(result), *_scores(result)]
    if any(result.data["source"] == "sample" for result in results.values()):
        lines.append(_SAMPLE)
    lines.append(f"{len(results)} of {len(ended)} runs finished; files in {folder}")
    sys.stdout.write("\n".join(lines) + "\n")


def _what(result: RunResult) -> str:
    return (
        f"{result.task} {result.method} on {result.preset}, {result.data['source']} rows: "
        f"{result.parameters['trainable']:,} of {result.parameters['total']:,} parameters trained"
    )


def _scores(result: RunResult) -> list[str]:
    return [_score(name, score) for name, score in (("best", result.best), ("last", result.last)) if score is not None]


def _score(name: str, score: Score) -> str:
    metrics = "  ".join(f"{key} {value:.4f}" for key, value in score.metrics.items())
    return f"{name}: step {score.step}  {metrics}"

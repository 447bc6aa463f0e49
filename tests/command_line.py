"""Runs of the command line in this process, and what the tests of it look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest


@dataclass(frozen=True)
class Outcome:
    """Exit status and what was printed."""

    status: int
    out: str
    err: str


class Run(Protocol):
    """Runs the command line; later arguments replace earlier ones."""

    def __call__(self, *arguments: str | Path) -> Outcome: ...


def basic_arguments(preset: Path) -> list[str]:
    """Four steps of LoRA on MRPC's sample rows, all of one padded length."""
    small = "--task mrpc --method lora --offline --limit 64 --max-length 16 --batch-size 16 --epochs 1"
    return [*small.split(), "--preset", str(preset)]


def run_in_process(arguments: list[str]) -> int:
    """Returns the exit status; splits of the sample rows are cut, so that they are evaluated in a moment."""
    from kpeft.glue.sample import ROWS
    from kpeft.run import main

    with pytest.MonkeyPatch.context() as patch:
        for split, rows in {"train": 200, "validation": 64, "test": 32}.items():
            patch.setitem(ROWS, split, rows)
        return main(arguments)


def result(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return content


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_refused(outcome: Outcome, *named: str, status: int = 2) -> None:
    """One line on standard error that names what was received and what to do."""
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith("kpeft: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for text in named:
        assert text in outcome.err

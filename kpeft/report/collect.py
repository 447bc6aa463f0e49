"""Finds the runs below a folder and reads what they left; what cannot be read becomes a note."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kpeft.glue.tasks import get_task
from kpeft.hardware import read_hardware
from kpeft.report.answer import read_answer
from kpeft.report.document import Table
from kpeft.results import FILE, HISTORY, MASKED_LM_LOSS, RUNS, RunResult, Score, read_result

_MOST = 10**15  # no count of parameters, steps or rows is larger


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run that has ended.

    Attributes:
        folder: Where it lies, below the report's folder.
        result: Its result.json.
        losses: Training loss of each step: (step, loss).
        evaluations: Metrics of each evaluation: (step, metrics).
        hardware: Its hardware.json, or `None` where it was not recorded.
        at_once: Whether it was trained together with others.
    """

    folder: str
    result: RunResult
    losses: tuple[tuple[int, float], ...] = ()
    evaluations: tuple[tuple[int, Mapping[str, float]], ...] = ()
    hardware: Mapping[str, Any] | None = None
    at_once: bool = False


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What a folder holds.

    Attributes:
        name: The folder's own name.
        runs: Runs that could be read, by folder.
        notes: A line for everything that could not.
        answer: The table of answer.json, if there is one.
    """

    name: str
    runs: tuple[Run, ...]
    notes: tuple[str, ...]
    answer: Table | None = None


def collect(folder: Path) -> Collection:
    """Reads all runs in a folder and below.

    Raises:
        ValueError: If there is no such folder, or no run in it that can be read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"{str(folder)!r} {what}: give a folder with runs of kpeft.run below it, such as runs.")
    notes: list[str] = []
    listed = _listed(folder, notes)
    runs = []
    for path in sorted({each.parent for name in (FILE, HISTORY) for each in folder.rglob(name)}):
        where = path.relative_to(folder).as_posix()
        if not (path / FILE).exists():
            notes.append(f"{where}: left out, {listed.get(path) or f'it has no {FILE}, so the run has not ended'}.")
            continue
        try:
            result = _checked(read_result(path), where, notes)
        except (ValueError, RecursionError) as error:
            notes.append(f"{where}: left out. {str(error).replace(f'{path}/', '')}")
            continue
        losses, evaluations = _history(path, where, notes)
        hardware = None
        try:
            hardware = read_hardware(path)
        except ValueError as error:
            notes.append(f"{where}: {str(error).replace(f'{path}/', '')}")
        run = Run(folder=where, result=result, losses=losses, evaluations=evaluations, hardware=hardware)
        runs.append(replace(run, at_once=listed.get(path) == ""))
    if not runs:
        reasons = f" {notes[0]}" if notes else f" No {FILE} is in it or below."
        raise ValueError(f"{str(folder)!r} holds no run to show: give the folder of one or more runs.{reasons}")
    answer = None
    try:
        answer = read_answer(folder)
    except ValueError as error:
        notes.append(str(error))
    return Collection(name=folder.resolve().name, runs=tuple(runs), notes=tuple(notes), answer=answer)


def _listed(folder: Path, notes: list[str]) -> dict[Path, str]:
    """Returns how each run ended that was trained with others, by its folder; "" for those that finished."""
    ended = {}
    for path in sorted(folder.rglob(RUNS)):
        try:
            for run in json.loads(path.read_text(encoding="utf-8"))["runs"]:
                reason = (
                    f"it {run['status']}: {run['error']}".rstrip(".") if run["error"] else f"it was {run['status']}"
                )
                ended[path.parent / run["folder"]] = "" if run["status"] == "finished" else reason
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            notes.append(f"{path.relative_to(folder).as_posix()} is no list of runs, or a half-written one.")
    return ended


def _checked(result: RunResult, where: str, notes: list[str]) -> RunResult:
    """Returns the result without numbers that are none.

    Raises:
        ValueError: If the task is unknown, or a field that the report needs is of another shape.
    """
    texts = (result.task, result.method, result.preset, *_mapping(result, "versions").values())
    if not all(isinstance(text, str) for text in texts) or type(result.seed) is not int:
        raise ValueError(f"{FILE}: task, method, preset, versions and seed must be texts and a whole number.")
    get_task(result.task)
    for name in ("method", "training", "data"):
        if not isinstance(_mapping(result, "config").get(name), dict):
            raise ValueError(f"{FILE}: config.{name} is missing.")
    counts = [_mapping(result, "parameters").get(name) for name in ("trainable", "total")]
    if not all(type(count) is int and 0 < count < _MOST for count in counts):
        raise ValueError(f"{FILE}: parameters must count trainable and total ones. Received: {result.parameters!r}")
    rows = _mapping(result, "data").get("validation_examples", 0)
    if type(rows) is not int or not 0 <= rows < _MOST:
        raise ValueError(f"{FILE}: data.validation_examples must be a number of rows. Received: {rows!r}")
    scores: dict[str, Score | None] = {}
    for name in ("best", "last"):
        score = getattr(result, name)
        if score is not None and not (type(score.step) is int and isinstance(score.metrics, dict)):
            raise ValueError(f"{FILE}: {name} must have a step and metrics.")
        scores[name] = score and replace(score, metrics=_finite(score.metrics, f"{where}: {name}", notes))
    timing = _finite(_mapping(result, "timing"), f"{where}: timing", notes)
    before = result.masked_lm_loss
    if before is not None and not _is_number(before):
        raise ValueError(f"{FILE}: {MASKED_LM_LOSS} must be a number. Received: {before!r}")
    return replace(result, timing=timing, best=scores["best"], last=scores["last"])


def _mapping(result: RunResult, name: str) -> Mapping[str, Any]:
    value = getattr(result, name)
    if not isinstance(value, dict):
        raise ValueError(f"{FILE}: {name} must be an object. Received: {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _finite(values: Mapping[str, Any], what: str, notes: list[str]) -> dict[str, float]:
    dropped = {name: value for name, value in values.items() if not _is_number(value)}
    if dropped:
        text = ", ".join(f"{name} is {value!r}" for name, value in dropped.items())
        notes.append(f"{what} without what is no finite number: {text}.")
    return {name: value for name, value in values.items() if name not in dropped}


def _history(path: Path, where: str, notes: list[str]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    losses, evaluations, bad = {}, {}, []
    try:
        for number, line in _lines(path / HISTORY):
            value = _parsed(line)
            step = value.get("step")
            if type(step) is not int or not 0 < step < _MOST:
                bad.append(number)
            elif _is_number(value.get("loss")):
                losses[step] = value["loss"]
            elif isinstance(value.get("metrics"), dict):
                metrics = {name: each for name, each in value["metrics"].items() if _is_number(each)}
                evaluations[step] = metrics
                bad += [number] if metrics != value["metrics"] else []
            else:
                bad.append(number)
    except OSError:
        notes.append(f"{where}: no curves, {HISTORY} is not there or cannot be read.")
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        notes.append(f"{where}: {HISTORY} is damaged in line {bad[0]}{more}; the rest is shown.")
    return tuple(sorted(losses.items())), tuple(sorted(evaluations.items()))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _parsed(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""Checkpoints from which a training goes on to the bit: safetensors and JSON in a folder that is renamed into place."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from kpeft.training.callbacks.evaluation import Evaluation, Evaluations
from kpeft.training.timing import Timing

_SCHEMA = 1
_STATE, _BEST, _RECORD = "state.safetensors", "best.safetensors", "state.json"
_UNFINISHED = ".tmp"


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a training at the end of a step is.

    Attributes:
        step: Steps done; with the seed, the position in the data.
        identity: What a run that goes on from here must have in common with this one; plain JSON.
        arrays: Trained variables, optimiser and random states.
        evaluations: Best and last evaluation, and the best weights.
        history_length: Bytes of history.jsonl.
        timing: Times so far, with this process's among the earlier ones; `None` where an older version saved none.
    """

    step: int
    identity: dict[str, Any]
    arrays: dict[str, np.ndarray]
    evaluations: Evaluations
    history_length: int
    timing: Timing | None = None


def save_checkpoint(checkpoint: Checkpoint, folder: Path, *, keep: int) -> None:
    """Saves a checkpoint as a whole or not at all, then removes the oldest.

    Args:
        checkpoint: What to save.
        folder: Holds the checkpoints, each in a folder of its own.
        keep: How many to leave.
    """
    target = folder / f"step-{checkpoint.step:08d}"
    if target.exists():
        return
    unfinished = target.with_suffix(_UNFINISHED)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _save_arrays(checkpoint.arrays, unfinished / _STATE)
        if checkpoint.evaluations.best_weights is not None:
            _save_arrays(checkpoint.evaluations.best_weights, unfinished / _BEST)
        (unfinished / _RECORD).write_text(json.dumps(_record(checkpoint), indent=2) + "\n", encoding="utf-8")
        for file in unfinished.iterdir():
            _write_through(file)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in _saved(folder)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Loads the latest checkpoint.

    Args:
        folder: As given to `save_checkpoint`.

    Returns:
        The checkpoint.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    saved = _saved(folder)
    if not saved:
        raise ValueError(f"Nothing to resume: {folder} holds no checkpoint. Train without resume first.")
    source = saved[-1]
    try:
        record = json.loads((source / _RECORD).read_text(encoding="utf-8"))
        if record["schema"] != _SCHEMA:
            raise ValueError(f"expected schema {_SCHEMA}. Received: schema={record['schema']!r}")
        best = source / _BEST
        return Checkpoint(
            step=record["step"],
            identity=record["identity"],
            arrays=load_file(source / _STATE),
            evaluations=Evaluations(
                best=_evaluation(record["best"]),
                last=_evaluation(record["last"]),
                since_best=record["since_best"],
                best_weights=load_file(best) if record["best"] else None,
            ),
            history_length=record["history_length"],
            timing=Timing(**record["timing"]) if record.get("timing") else None,
        )
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{source} cannot be resumed from: {error}. Remove that folder to use an older one."
        ) from error


def check_identity(saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Compares a run with the one that it wants to go on from.

    Args:
        saved: Identity of the older run.
        present: Identity of this run; plain JSON types, dictionaries may nest.

    Raises:
        ValueError: They differ; the message names the first field that does.
    """
    if saved.get("numerics") != present.get("numerics"):
        raise ValueError(
            f"The checkpoint is of a kpeft that computes otherwise (numerics {saved.get('numerics')}): go on with that "
            f"kpeft, or train anew without resume. Received: numerics={present.get('numerics')}"
        )
    before, now = _flat(saved), _flat(present)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"A resumed run must be set up as the run it goes on from: {name} was {before.get(name)!r}. "
                f"Received: {name.rpartition('.')[2]}={now.get(name)!r}"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    evaluations = checkpoint.evaluations
    return {
        "schema": _SCHEMA,
        "step": checkpoint.step,
        "best": evaluations.best and dataclasses.asdict(evaluations.best),
        "last": evaluations.last and dataclasses.asdict(evaluations.last),
        "since_best": evaluations.since_best,
        "history_length": checkpoint.history_length,
        "timing": checkpoint.timing and dataclasses.asdict(checkpoint.timing),
        "identity": checkpoint.identity,
    }


def _evaluation(record: dict[str, Any] | None) -> Evaluation | None:
    return None if record is None else Evaluation(**record)


def _saved(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != _UNFINISHED)


def _save_arrays(arrays: dict[str, np.ndarray], file: Path) -> None:
    try:
        save_file(arrays, file)
    except SafetensorError as error:  # a full disk, among others
        raise OSError(f"{file} cannot be written: {error}") from error


def _write_through(file: Path) -> None:
    """A rename may reach the disk before the data does."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

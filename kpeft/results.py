"""What a run came to: one dataclass, one JSON file."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kpeft._version import __version__
from kpeft.files import write_json

SCHEMA = 1
FILE = "result.json"
RUNS = "runs.json"
HISTORY = "history.jsonl"
CHECKPOINTS = "checkpoints"
MASKED_LM_LOSS = "masked_lm_loss"
"""The metric of `--text`; see `kpeft.masked_lm`."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Metrics of the whole validation split at one step; fractions, not percent.

    Attributes:
        step: Optimiser updates done.
        epoch: Passes over the training rows done.
        metrics: By name; MNLI's are `matched/…` and `mismatched/…`.
    """

    step: int
    epoch: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The contents of result.json.

    Attributes:
        task: The GLUE task.
        method: Name of the method.
        preset: The pretrained model.
        seed: Seed of the run.
        config: All options.
        parameters: `trainable` and `total` parameter counts.
        data: `source`, `train_examples`, `validation_examples`.
        best: The evaluation that the task's own metric picks; ties go to the earlier step. `None` for a task without
            labels.
        last: The evaluation after the last step.
        timing: `total_seconds` from the start of the process, `train_seconds`, `train_examples_per_second` of steady
            training (real rows; compilation and evaluation left out), `compile_seconds`.
        versions: Of kpeft, keras and jax.
        masked_lm_loss: Of the text of `--text` before training; left out of the file where there is none.
    """

    task: str
    method: str
    preset: str
    seed: int
    config: Mapping[str, Any]
    parameters: Mapping[str, int]
    data: Mapping[str, Any]
    best: Score | None
    last: Score | None
    timing: Mapping[str, float]
    versions: Mapping[str, str] = field(default_factory=lambda: installed_versions())
    schema: int = SCHEMA
    masked_lm_loss: float | None = None

    def write(self, folder: str | Path) -> None:
        """Writes result.json into `folder`."""
        value = asdict(self)
        if self.masked_lm_loss is None:
            del value["masked_lm_loss"]
        write_json(Path(folder) / FILE, value)


def read_result(folder: str | Path) -> RunResult:
    """Reads result.json from `folder`.

    Raises:
        ValueError: If it is missing, damaged or of another schema.
    """
    path = Path(folder) / FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    try:
        if value["schema"] != SCHEMA:
            raise KeyError(value["schema"])
        scores = {name: None if value[name] is None else Score(**value[name]) for name in ("best", "last")}
        return RunResult(**{**value, **scores})
    except (KeyError, TypeError) as error:  # another schema, a field too many, too few or of another shape
        raise ValueError(f"{path} is no result of schema {SCHEMA}.") from error


def listed_folders(folder: str | Path) -> list[Path]:
    """Returns the folders of the runs that runs.json in `folder` lists, if it is there.

    They are to be cleared: only folders that really are below `folder` are among them, whatever the file says.

    Raises:
        ValueError: If it is damaged or of another schema.
    """
    path = Path(folder) / RUNS
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise KeyError(value["schema"])
        listed = {Path(folder, run["folder"]).resolve() for run in value["runs"]}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no list of runs of schema {SCHEMA}: remove it, and what it lists.") from error
    return sorted(each for each in listed if each.is_dir() and path.parent.resolve() in each.parents)


def installed_versions() -> dict[str, str]:
    """Returns the versions of kpeft, keras and jax."""
    return {"kpeft": __version__, **{name: importlib.metadata.version(name) for name in ("keras", "jax")}}

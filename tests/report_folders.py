"""Folders of runs as kpeft.run leaves them, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kpeft.config import DataConfig, RunConfig, TrainingConfig
from kpeft.methods import LoRA, Method
from kpeft.results import RunResult, Score

TIMING = {"total_seconds": 300.0, "train_seconds": 200.0, "train_examples_per_second": 90.0, "compile_seconds": 20.0}
HARDWARE = {"platform": "gpu", "device": "L4", "devices": 2, "processor": "A processor", "cores": 8}


def metrics(*, tn: int, fp: int, fn: int, tp: int, loss: float = 0.5) -> dict[str, float]:
    """Metrics of two classes from their confusion matrix."""
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    f1 = 2 * precision * recall / (precision + recall)
    accuracy = (tp + tn) / (tn + fp + fn + tp)
    return {"accuracy": accuracy, "f1": f1, "precision": precision, "recall": recall, "loss": loss}


MRPC = metrics(tn=80, fp=49, fn=25, tp=254)


def config(method: Method | None = None, *, task: str = "mrpc", **options: Any) -> RunConfig:
    """A run's configuration; options are those of training, or `data` and others as they are."""
    names = ("data", "preset", "precision", "adapter", "distillation", "masked_text")
    others = {name: options.pop(name) for name in names if name in options}
    preset = others.pop("preset", "minilm")
    training = TrainingConfig(**options)
    return RunConfig(
        task=task, method=method or LoRA(), preset=preset, training=training, output_dir="unused", **others
    )


def result_of(
    run: RunConfig, best: Score | None, last: Score | None, *, trainable: int, timing: Mapping[str, float], rows: int
) -> RunResult:
    """A run's result."""
    assert run.method is not None
    return RunResult(
        task=run.task,
        method=run.method.name,
        preset=run.preset,
        seed=run.training.seed,
        config=run.to_json(),
        parameters={"trainable": trainable, "total": 22_713_986},
        data={"source": "sample" if run.data.offline else "tsv", "train_examples": 64, "validation_examples": rows},
        best=best,
        last=last,
        timing=timing,
        versions={"kpeft": "0.1.0", "keras": "3.15.1", "jax": "0.10.2"},
    )


def write_run(
    folder: Path,
    method: Method | None = None,
    *,
    scores: Mapping[str, float] | None = MRPC,
    best: Mapping[str, float] | None = None,
    losses: Sequence[float] = (0.7, 0.6, 0.5, 0.4),
    trainable: int = 1000,
    timing: Mapping[str, float] = TIMING,
    rows: int = 408,
    hardware: Mapping[str, Any] | None = None,
    masked_lm_loss: float | None = None,
    **options: Any,
) -> Path:
    """Writes one run: an evaluation after every second step, the last being `scores`."""
    run = config(method, **options)
    last = Score(step=len(losses), epoch=1.0, metrics=dict(scores)) if scores else None
    chosen = Score(step=2, epoch=0.5, metrics=dict(best)) if best else last
    result = result_of(run, chosen, last, trainable=trainable, timing=timing, rows=rows)
    replace(result, masked_lm_loss=masked_lm_loss).write(folder)
    if hardware is not None:
        (folder / "hardware.json").write_text(json.dumps(hardware))
    lines: list[dict[str, Any]] = []
    for step, loss in enumerate(losses, 1):
        lines.append({"step": step, "epoch": step / len(losses), "loss": loss, "learning_rate": 1e-3})
        if step % 2 == 0 and scores:
            lines.append({"step": step, "epoch": step / len(losses), "metrics": dict(scores)})
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def offline() -> DataConfig:
    return DataConfig(offline=True)

"""Results as kpeft.run leaves them, written by hand."""

from __future__ import annotations

from experiments.recipe import Run
from kpeft.results import RunResult, Score


def write_result(run: Run, **metrics: float) -> None:
    config = run.config()
    assert config.method is not None
    score = Score(step=1, epoch=1.0, metrics=metrics)
    RunResult(
        task=config.task,
        method=config.method.name,
        preset=config.preset,
        seed=config.training.seed,
        config=config.to_json(),
        parameters={"trainable": 1234},
        data={},
        best=score,
        last=score,
        timing={"train_examples_per_second": 10.0, "train_seconds": 20.0},
    ).write(run.folder)

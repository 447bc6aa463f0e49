"""Evaluations on whole validation splits, the best of them, and early stopping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import keras
import numpy as np

from kpeft.training.callbacks.base import FitState, StepCallback
from kpeft.training.callbacks.history import History
from kpeft.training.callbacks.loss_log import LossLog

Evaluate = Callable[[keras.Model], Mapping[str, float]]
Score = Callable[[Mapping[str, float]], float]


@final
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics at a step.

    Attributes:
        step: Steps done.
        epoch: Passes over the rows done.
        metrics: By name.
    """

    step: int
    epoch: float
    metrics: dict[str, float]


@final
@dataclass(kw_only=True)
class Evaluations:
    """The evaluations of a run that matter.

    Attributes:
        best: The one with the highest score, the earliest of equals.
        last: The latest one.
        since_best: Evaluations after the best.
        best_weights: The trained variables at the best, by path.
    """

    best: Evaluation | None = None
    last: Evaluation | None = None
    since_best: int = 0
    best_weights: dict[str, np.ndarray] | None = None

    def take(self, evaluation: Evaluation, score: Score, weights: Callable[[], dict[str, np.ndarray]]) -> None:
        """Takes a new evaluation in.

        Args:
            evaluation: The latest.
            score: What decides the best; higher is better.
            weights: Copies the trained variables, by path; called if it is the best.
        """
        self.last = evaluation
        if self.best is None or score(evaluation.metrics) > score(self.best.metrics):
            self.best, self.since_best, self.best_weights = evaluation, 0, weights()
        else:
            self.since_best += 1


@final
class Evaluator(StepCallback):
    """Evaluates every so many steps, each epoch, and after the last step.

    Args:
        evaluate: Takes the model and gives metrics by name.
        score: What decides the best; higher is better.
        every: Steps between evaluations, or `None` for each epoch.
        patience: Stop after so many evaluations in a row without a better score, or `None`.
        trained: The variables that the best keeps, by path.
        history: Gets `{"step", "epoch", "metrics"}`.
        losses: Settled before an evaluation, so that a broken model is not evaluated.
        record: Evaluations so far; brought up to date.
    """

    def __init__(
        self,
        *,
        evaluate: Evaluate,
        score: Score,
        every: int | None,
        patience: int | None,
        trained: Mapping[str, Any],
        history: History,
        losses: LossLog,
        record: Evaluations,
    ) -> None:
        self._evaluate = evaluate
        self._score = score
        self._every = every
        self._patience = patience
        self._trained = trained
        self._history = history
        self._losses = losses
        self.record = record

    def on_step_end(self, state: FitState) -> None:
        if not (state.due(self._every) or state.finished):
            return
        self._losses.settle(state)
        state.sync()
        lap = state.timer.switch("evaluate")
        try:
            metrics = {name: float(value) for name, value in self._evaluate(state.model).items()}
        except FloatingPointError as error:
            raise FloatingPointError(f"The evaluation after step {state.step} failed: {error}") from error
        evaluation = Evaluation(step=state.step, epoch=state.epoch, metrics=metrics)
        self._history.write({"step": state.step, "epoch": state.epoch, "metrics": metrics}, flush=True)
        self.record.take(evaluation, self._score, lambda: snapshot(self._trained))
        state.latest["score"] = self._score(metrics)
        state.timer.switch(lap)
        if self._patience is not None and self.record.since_best >= self._patience:
            state.stop = True


def snapshot(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies of variables in host memory. Views would not do: a training step takes their buffers over."""
    return {path: np.array(keras.ops.convert_to_numpy(variable), copy=True) for path, variable in variables.items()}

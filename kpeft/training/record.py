"""What is recorded of one of many runs: its losses and evaluations, the best of them, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from kpeft.config import TrainingConfig
from kpeft.results import HISTORY
from kpeft.training.callbacks import Evaluation, Evaluations, FitState, History, NonFiniteLossError
from kpeft.training.callbacks.evaluation import Score
from kpeft.training.callbacks.loss_log import write_loss
from kpeft.training.loop import TrainingResult, make_schedule


@final
@dataclass(frozen=True, kw_only=True)
class Start:
    """Where one of many runs begins.

    Attributes:
        config: How to train.
        values: The variables that differ between runs, by path.
        output_dir: Gets history.jsonl.
    """

    config: TrainingConfig
    values: Mapping[str, np.ndarray]
    output_dir: Path


@final
class RunRecord:
    """One run. What comes after its end is not recorded.

    Args:
        start: The run.
        state: Shared by all runs.
        share: Its share of the rows that the state's timer counts.

    Attributes:
        outcome: How it ended: a result, or the error that ended it; `None` until then.
    """

    def __init__(self, start: Start, state: FitState, share: float) -> None:
        self.outcome: TrainingResult | Exception | None = None
        self._config = start.config
        self._state = state
        self._share = share
        self._schedule = make_schedule(start.config, state.plan)
        self._history = History(start.output_dir / HISTORY)
        self._evaluations = Evaluations()

    def take_loss(self, step: int, loss: float) -> None:
        """Writes a step's loss; one that is not finite ends the run."""
        if self.outcome is None:
            try:
                write_loss(self._history, self._schedule, self._state.plan, step, loss)
            except NonFiniteLossError as error:
                self.outcome = error

    def evaluate(
        self, metrics: Callable[[], Mapping[str, float]], score: Score, weights: Callable[[], dict[str, np.ndarray]]
    ) -> float | None:
        """Takes an evaluation in; the last one, or too many without a better score, end the run.

        Args:
            metrics: Computes them; an error in that ends the run.
            score: What decides the best; higher is better.
            weights: Copies the trained variables, by path.

        Returns:
            The score, or `None` where the evaluation failed.
        """
        state = self._state
        try:
            values = {name: float(value) for name, value in metrics().items()}
        except FloatingPointError as error:
            self.outcome = FloatingPointError(f"The evaluation after step {state.step} failed: {error}")
            return None
        self._history.write({"step": state.step, "epoch": state.epoch, "metrics": values}, flush=True)
        self._evaluations.take(Evaluation(step=state.step, epoch=state.epoch, metrics=values), score, weights)
        patience = self._config.patience
        if state.finished or (patience is not None and self._evaluations.since_best >= patience):
            self.outcome = self._result(interrupted=False)
        return score(values)

    def close(self, failure: Exception | None) -> None:
        """Closes the history. A run without an outcome was ended by `failure` or, without one, interrupted."""
        try:
            self._history.close()
        except OSError as error:  # of a run that has ended all lines are in the file
            failure = failure or error
        if self.outcome is None:
            self.outcome = failure or self._result(interrupted=True)

    def _result(self, *, interrupted: bool) -> TrainingResult:
        state, timing = self._state, self._state.timer.read()
        return TrainingResult(
            best=self._evaluations.best,
            last=self._evaluations.last,
            best_weights=self._evaluations.best_weights,
            steps=state.step,
            epochs=state.epoch,
            interrupted=interrupted,
            timing=dataclasses.replace(timing, train_rows=round(timing.train_rows * self._share)),
        )

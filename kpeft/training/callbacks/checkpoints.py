"""Saves a checkpoint every so many steps and wherever training ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from kpeft.training.callbacks.base import FitState, StepCallback
from kpeft.training.callbacks.evaluation import Evaluations
from kpeft.training.callbacks.history import History
from kpeft.training.callbacks.loss_log import LossLog
from kpeft.training.checkpoint import Checkpoint, save_checkpoint
from kpeft.training.state import read_state
from kpeft.training.timing import process_seconds


@final
class Checkpoints(StepCallback):
    """Saves checkpoints; comes after whatever evaluates or stops.

    Args:
        folder: Holds the checkpoints.
        every: Steps between checkpoints, or `None` for each epoch.
        keep: How many to leave.
        identity: See `Checkpoint`.
        variables: All that changes in training, by name.
        evaluations: Brought up to date by the evaluator.
        history: Its length is saved.
        losses: Settled before, so that no broken model is saved.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int | None,
        keep: int,
        identity: dict[str, Any],
        variables: Mapping[str, Any],
        evaluations: Evaluations,
        history: History,
        losses: LossLog,
    ) -> None:
        self._folder = folder
        self._every = every
        self._keep = keep
        self._identity = identity
        self._variables = variables
        self._evaluations = evaluations
        self._history = history
        self._losses = losses

    def on_step_end(self, state: FitState) -> None:
        if not (state.due(self._every) or state.stop or state.finished):
            return
        self._losses.settle(state)
        state.sync()
        lap = state.timer.switch(None)
        timing = state.timer.read()
        checkpoint = Checkpoint(
            step=state.step,
            identity=self._identity,
            arrays=read_state(self._variables),
            evaluations=self._evaluations,
            history_length=self._history.length(),
            timing=replace(timing, earlier_seconds=timing.earlier_seconds + process_seconds()),
        )
        save_checkpoint(checkpoint, self._folder, keep=self._keep)
        state.timer.switch(lap)

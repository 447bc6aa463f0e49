"""From Keras's events, one for each micro-batch, to the events of steps, with nothing copied to the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import jax
import keras

from kpeft.training.batches import TrainBatches
from kpeft.training.losses import MicroBatchLoss
from kpeft.training.plan import Plan
from kpeft.training.timing import Timer


@final
@dataclass(kw_only=True)
class FitState:
    """What the callbacks of one training share.

    Attributes:
        model: The model in training. Its variables hold nothing between steps: call `sync` before reading them.
        plan: The counts of the run.
        timer: Where the time goes.
        step: Steps done.
        losses: Loss of each micro-batch of the latest step, on the device; their sum is the step's loss.
        stop: Set to end the training after this step.
        latest: The latest evaluation's score and the latest known loss, by name, for whoever shows them.
    """

    model: keras.Model
    plan: Plan
    timer: Timer
    step: int = 0
    losses: list[Any] = field(default_factory=list)
    stop: bool = False
    latest: dict[str, float] = field(default_factory=dict)

    @property
    def epoch(self) -> float:
        """Passes over the rows so far."""
        return self.step / self.plan.steps_per_epoch

    @property
    def finished(self) -> bool:
        return self.step >= self.plan.total_steps

    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps (`None`: each epoch) happens now."""
        return self.step % (every or self.plan.steps_per_epoch) == 0

    def sync(self) -> None:
        """Waits for the device and puts the present values into the model's and the optimiser's variables."""
        jax.block_until_ready(self.losses)
        self.model.jax_state_sync()


class StepCallback(ABC):
    """Something that happens between steps. Callbacks are called in the order in which they are listed."""

    @abstractmethod
    def on_step_end(self, state: FitState) -> None:
        """Called after each step, which may still be running on the device."""

    def on_end(self, state: FitState) -> None:
        """Called once when training is over, also by an error."""
        return


@final
class StepEvents(keras.callbacks.CallbackList):
    """Drives step callbacks from `fit`.

    Keras's own list turns each micro-batch's logs into floats, which makes the host wait for the device every time.

    Args:
        state: Shared by the callbacks.
        batches: What `fit` is given.
        callbacks: Called after each step, in this order.
    """

    def __init__(self, state: FitState, batches: TrainBatches, callbacks: Sequence[StepCallback]) -> None:
        super().__init__(add_history=True, model=state.model)
        self._state = state
        self._batches = batches
        self._step_callbacks = list(callbacks)
        self._seen: set[int] = set()
        self._losses: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._state.timer.switch("train")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._batches.width(self._batches.start + batch) not in self._seen:
            jax.block_until_ready(self._losses or self._state.losses)
            self._state.timer.switch("compile")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        state, micro_batch = self._state, self._batches.start + batch
        self._losses.append(logs[MicroBatchLoss.NAME])
        state.timer.count(state.plan.rows_of_micro_batch(micro_batch))
        width = self._batches.width(micro_batch)
        if width not in self._seen:
            self._seen.add(width)
            jax.block_until_ready(self._losses)
            state.timer.switch("train")
        if not state.plan.ends_step(micro_batch):
            return
        state.step = state.plan.step_of(micro_batch) + 1
        state.losses, self._losses = self._losses, []
        for callback in self._step_callbacks:
            callback.on_step_end(state)
        if state.stop:
            state.model.stop_training = True

"""Each step's loss: read when the device has it, checked, and written to the history."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, final

from kpeft.training.callbacks.base import FitState, StepCallback
from kpeft.training.callbacks.history import History
from kpeft.training.plan import Plan
from kpeft.training.schedules import Schedule

# A loss that is not ready after so many steps is waited for, so that a NaN is seen soon.
_MOST_PENDING = 32


class NonFiniteLossError(RuntimeError):
    """The loss of a step was NaN or infinite.

    Attributes:
        step: The step, from 1.
    """

    def __init__(self, step: int, loss: float) -> None:
        self.step = step
        super().__init__(
            f"The loss of step {step} is {loss}. Try a smaller learning rate, or a clip norm. Received: loss={loss}"
        )


@final
class LossLog(StepCallback):
    """Writes `{"step", "epoch", "loss", "learning_rate"}` for each step, a few steps late.

    Args:
        history: Where to.
        schedule: Gives the rate that the step was made with.
    """

    def __init__(self, history: History, schedule: Schedule) -> None:
        self._history = history
        self._schedule = schedule
        self._pending: deque[tuple[int, list[Any]]] = deque()

    def on_step_end(self, state: FitState) -> None:
        self._pending.append((state.step, state.losses))
        while self._pending and (len(self._pending) > _MOST_PENDING or self._is_ready(self._pending[0][1])):
            self._take(state)

    def settle(self, state: FitState) -> None:
        """Waits for the losses of all steps so far.

        Raises:
            NonFiniteLossError: One of them was NaN or infinite.
        """
        while self._pending:
            self._take(state)

    def _is_ready(self, losses: list[Any]) -> bool:
        return all(loss.is_ready() for loss in losses)

    def _take(self, state: FitState) -> None:
        step, losses = self._pending.popleft()
        loss = math.fsum(float(part) for part in losses) if len(losses) > 1 else float(losses[0])
        try:
            write_loss(self._history, self._schedule, state.plan, step, loss)
        except NonFiniteLossError:
            self._pending.clear()
            raise
        state.latest["loss"] = loss


def write_loss(history: History, schedule: Schedule, plan: Plan, step: int, loss: float) -> None:
    """Writes a step's line.

    Raises:
        NonFiniteLossError: The loss is NaN or infinite; nothing is written then.
    """
    if not math.isfinite(loss):
        raise NonFiniteLossError(step, loss)
    epoch = step / plan.steps_per_epoch
    history.write({"step": step, "epoch": epoch, "loss": loss, "learning_rate": schedule.at(step - 1)})

"""Progress on standard error: a bar in a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO, final

from tqdm import tqdm

from kpeft.training.callbacks.base import FitState, StepCallback

_BAR_SECONDS = 0.2
_LINE_SECONDS = 10.0


@final
class Progress(StepCallback):
    """Shows the step, loss, score, examples a second and the time left.

    Args:
        total_steps: Steps of the run.
        start: Steps done before.
        stream: Where to; standard error when not given.
    """

    def __init__(self, total_steps: int, *, start: int = 0, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total_steps
        self._start = start
        self._bar: Any = None
        self._shown = self._begun = time.monotonic()

    def on_step_end(self, state: FitState) -> None:
        now = time.monotonic()
        terminal = self._stream.isatty()
        if now - self._shown < (_BAR_SECONDS if terminal else _LINE_SECONDS) and not state.finished:
            return
        self._shown = now
        if terminal:
            self._draw(state)
        else:
            self._stream.write(self._line(state, now) + "\n")
            self._stream.flush()

    def on_end(self, state: FitState) -> None:
        if self._bar is not None:
            self._bar.close()

    def _draw(self, state: FitState) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self._total,
                initial=self._start,
                file=self._stream,
                unit=" steps",
                mininterval=0,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(self._values(state), refresh=False)
        self._bar.update(state.step - self._bar.n)

    def _line(self, state: FitState, now: float) -> str:
        left = (now - self._begun) / max(1, state.step - self._start) * (self._total - state.step)
        return f"step {state.step}/{self._total}, {self._values(state)}, {tqdm.format_interval(left)} left"

    def _values(self, state: FitState) -> str:
        shown = [f"{name} {value:.4f}" for name, value in state.latest.items()]
        return ", ".join([*shown, f"{state.timer.read().train_examples_per_second:.1f} examples/s"])

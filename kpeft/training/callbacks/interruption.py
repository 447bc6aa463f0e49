"""SIGINT and SIGTERM: the first ends training after the present step, the second ends the program at once."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, final

from kpeft.training.callbacks.base import FitState, StepCallback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class Interruption(StepCallback):
    """Notes the first signal and stops the training after the step that is under way.

    An interrupt in the middle of a step would leave the model without its arrays, which the step has taken over.

    Args:
        ending: What is still done after the first signal, as the line on standard error names it.

    Attributes:
        requested: Whether a signal has come.
    """

    def __init__(self, ending: str = "after this step") -> None:
        self.requested = False
        self._ending = ending

    def on_step_end(self, state: FitState) -> None:
        if self.requested:
            state.stop = True

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Handles the signals inside the block. Only a program's main thread can; elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        # The system's own handler, not Python's: that one would wait until XLA returns.
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        name = signal.Signals(number).name
        sys.stderr.write(f"\n{name}: ending {self._ending}; once more ends at once.\n")

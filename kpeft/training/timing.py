"""Wall-clock time of training steps, apart from compilation and evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import psutil


@final
@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time of a training went, in the process that ends it and in those that it went on from.

    Attributes:
        train_seconds: Training steps, data preparation and the features of frozen layers included; without
            `compile_seconds`.
        train_rows: Real rows, not padding, trained on in `train_seconds`.
        compile_seconds: First micro-batch of each shape: tracing, compilation and that micro-batch itself.
        evaluate_seconds: Evaluations.
        earlier_seconds: From the start of each earlier process to the checkpoint that the next went on from.
    """

    train_seconds: float
    train_rows: int
    compile_seconds: float
    evaluate_seconds: float
    earlier_seconds: float = 0.0

    @property
    def train_examples_per_second(self) -> float:
        """Real rows a second of training; 0 where every micro-batch was the first of its shape."""
        return self.train_rows / self.train_seconds if self.train_seconds > 0 else 0.0


@final
class Timer:
    """A stopwatch that is always on one lap: `"train"`, `"compile"`, `"evaluate"` or none.

    Steps run on the device behind the program's back. Whoever changes the lap waits for the device first.

    Args:
        clock: Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = {"train": 0.0, "compile": 0.0, "evaluate": 0.0}
        self._rows = 0
        self._earlier = 0.0
        self._lap: str | None = None
        self._since = clock()

    def go_on(self, earlier: Timing) -> None:
        """Adds the times of the processes that this one goes on from."""
        self._seconds["train"] += earlier.train_seconds
        self._seconds["compile"] += earlier.compile_seconds
        self._seconds["evaluate"] += earlier.evaluate_seconds
        self._rows += earlier.train_rows
        self._earlier += earlier.earlier_seconds

    def switch(self, lap: str | None) -> str | None:
        """Goes on to another lap.

        Args:
            lap: Where the time from now on belongs.

        Returns:
            The lap that ends, to go back to.
        """
        now = self._clock()
        if self._lap is not None:
            self._seconds[self._lap] += now - self._since
        ended, self._lap, self._since = self._lap, lap, now
        return ended

    def count(self, rows: int) -> None:
        """Counts rows, if the lap is training."""
        if self._lap == "train":
            self._rows += rows

    def read(self) -> Timing:
        """The times so far."""
        self.switch(self._lap)
        return Timing(
            train_seconds=self._seconds["train"],
            train_rows=self._rows,
            compile_seconds=self._seconds["compile"],
            evaluate_seconds=self._seconds["evaluate"],
            earlier_seconds=self._earlier,
        )


def process_seconds() -> float:
    """Seconds since this process began."""
    return time.time() - psutil.Process().create_time()

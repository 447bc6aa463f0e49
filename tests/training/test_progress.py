from __future__ import annotations

import io
from typing import Any

import pytest

from kpeft.training.callbacks import FitState, Progress
from kpeft.training.callbacks import progress as progress_module
from kpeft.training.plan import Plan
from kpeft.training.timing import Timer


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    monotonic = __call__


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_state(clock: _Clock) -> FitState:
    model: Any = None
    return FitState(model=model, plan=Plan(rows=100, batch_size=10), timer=Timer(clock))


def test_time_belongs_to_the_lap_it_was_spent_in() -> None:
    clock = _Clock()
    timer = Timer(clock)
    for lap, seconds, rows in [
        (None, 9.0, 9),
        ("compile", 5.0, 8),
        ("train", 2.0, 30),
        ("evaluate", 3.0, 0),
        ("train", 1.0, 30),
    ]:
        timer.switch(lap)
        timer.count(rows)
        clock.now += seconds
    timing = timer.read()
    assert (timing.train_seconds, timing.compile_seconds, timing.evaluate_seconds) == (3.0, 5.0, 3.0)
    assert (timing.train_rows, timing.train_examples_per_second) == (60, 20.0)
    assert Timer(clock).read().train_examples_per_second == 0.0


@pytest.mark.parametrize("stream", [io.StringIO(), _Terminal()])
def test_loss_score_speed_and_time_left_show(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    state, progress = make_state(clock), Progress(10, stream=stream)
    state.latest = {"loss": 0.25, "score": 0.5}
    state.timer.switch("train")
    for step in range(1, 11):
        state.step = step
        state.timer.count(10)
        clock.now += 4.0
        progress.on_step_end(state)
    progress.on_end(state)
    shown = stream.getvalue()
    for text in ("loss 0.2500, score 0.5000", "2.5 examples/s", "3/10", "10/10"):
        assert text in shown
    if not stream.isatty():
        # Every ten seconds and at the end, not at each step.
        assert [line.split(",")[0] for line in shown.splitlines()] == [
            "step 3/10",
            "step 6/10",
            "step 9/10",
            "step 10/10",
        ]
        assert shown.splitlines()[1].endswith("00:16 left")

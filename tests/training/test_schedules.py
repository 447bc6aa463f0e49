from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from kpeft.training.schedules import Schedule, warmup_steps


def by_hand(kind: str, peak: float, warmup: int, total: int, step: int) -> float:
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / (total - warmup)
    return {"linear": peak * (1 - progress), "cosine": peak * (1 + math.cos(math.pi * progress)) / 2}.get(kind, peak)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 7), (5, 20), (19, 20), (1, 2)])
def test_rate_of_each_update(kind: str, warmup: int, total: int) -> None:
    schedule = Schedule(kind=kind, peak=3e-4, warmup_steps=warmup, total_steps=total)
    expected = [by_hand(kind, 3e-4, warmup, total, step) for step in range(total)]
    np.testing.assert_allclose([schedule.at(step) for step in range(total)], expected, rtol=1e-13, atol=1e-18)
    traced = jax.vmap(schedule)(np.arange(total, dtype=np.int32))
    np.testing.assert_allclose(traced, expected, rtol=1e-6, atol=1e-10)


def test_warm_up_longer_than_the_run_only_rises() -> None:
    schedule = Schedule(kind="linear", peak=1.0, warmup_steps=10, total_steps=4)
    assert [schedule.at(step) for step in range(4)] == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0.0, 100, 0), (0.06, 100, 6), (0.061, 100, 7), (0.5, 3, 2), (1, 100, 1), (50, 20, 50)],
)
def test_warm_up_as_a_share_or_a_number(warmup: float, total: int, steps: int) -> None:
    assert warmup_steps(warmup, total) == steps


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind='step'"):
        Schedule(kind="step", peak=1.0, warmup_steps=0, total_steps=1).at(0)

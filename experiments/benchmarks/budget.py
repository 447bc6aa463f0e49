"""Measuring in order of importance until the time is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """Something to measure.

    Attributes:
        name: What to call it.
        kind: Measurements of one kind take about as long.
        run: Does it, with so many seconds left.
    """

    name: str
    kind: str
    run: Callable[[float], None]


def run_within(
    seconds: float, measurements: Sequence[Measurement], clock: Callable[[], float] = time.monotonic
) -> list[str]:
    """Runs measurements in their order, each only if the time left is enough for the longest of its kind so far.

    Args:
        seconds: Time for all.
        measurements: The most important first. One that is dropped does not keep a shorter one behind it from running.
        clock: Seconds since some moment.

    Returns:
        Names of those dropped.
    """
    end = clock() + seconds
    longest: dict[str, float] = {}
    dropped = []
    for measurement in measurements:
        begun = clock()
        if begun + longest.get(measurement.kind, 0.0) >= end:
            dropped.append(measurement.name)
            continue
        measurement.run(end - begun)
        longest[measurement.kind] = max(longest.get(measurement.kind, 0.0), clock() - begun)
    return dropped

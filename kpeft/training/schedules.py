"""Learning rates over a run: linear or cosine decay, or a constant, each after a linear warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, final

import numpy as np


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Number of warm-up steps that `TrainingConfig.warmup` stands for.

    Args:
        warmup: Below 1 a share of all steps (rounded up, as Hugging Face's trainer does), else a number of steps.
        total_steps: Steps of the whole run.

    Returns:
        The number of steps over which the rate rises.
    """
    return math.ceil(warmup * total_steps) if warmup < 1 else int(warmup)


@final
@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Rate of update `k`, counted from 0, of `N = total_steps` with `W = warmup_steps`.

    For `k < W` the rate is `peak * k / W`. From there on it is, with `t = (k - W) / (N - W)`:

    * linear: `peak * (1 - t)`
    * cosine: `peak * (1 + cos(pi * t)) / 2`
    * constant: `peak`

    An instance is an optax schedule: calling it with a traced integer gives a float32 scalar.

    Attributes:
        kind: `"linear"`, `"cosine"` or `"constant"`.
        peak: The rate at the end of the warm-up.
        warmup_steps: `W`.
        total_steps: `N`.
    """

    kind: str
    peak: float
    warmup_steps: int
    total_steps: int

    def __call__(self, count: Any) -> Any:
        import jax.numpy as jnp

        return self._rate(jnp.asarray(count, jnp.float32), jnp)

    def at(self, step: int) -> float:
        """The rate of update `step` in float64, for logs."""
        return float(self._rate(np.float64(step), np))

    def _rate(self, count: Any, xp: ModuleType) -> Any:
        rising = count / max(1, self.warmup_steps)
        progress = xp.clip((count - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps), 0.0, 1.0)
        if self.kind == "linear":
            falling = 1.0 - progress
        elif self.kind == "cosine":
            falling = 0.5 * (1.0 + xp.cos(np.pi * progress))
        elif self.kind == "constant":
            falling = xp.ones_like(progress)
        else:
            raise ValueError(f"Unknown schedule. Expected linear, cosine or constant. Received: kind={self.kind!r}")
        return self.peak * xp.where(count < self.warmup_steps, rising, falling)

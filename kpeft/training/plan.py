"""How rows, micro-batches, steps and epochs of a run hang together; integers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a run; a *step* is one optimiser update, a *micro-batch* one forward and backward pass.

    An epoch has `ceil(rows / batch_size)` micro-batches, the last with the rows that are left. Steps take
    `accumulation` micro-batches each and never reach over the end of an epoch: its last step may be smaller.

    Attributes:
        rows: Training rows.
        batch_size: Rows of one micro-batch.
        accumulation: Micro-batches of one step.
        epochs: Passes over the rows.
        max_steps: End after so many steps, or `None`.
    """

    rows: int
    batch_size: int
    accumulation: int = 1
    epochs: int = 1
    max_steps: int | None = None

    @property
    def micro_batches_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.micro_batches_per_epoch // self.accumulation)

    @property
    def total_steps(self) -> int:
        steps = self.epochs * self.steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def micro_batches_before(self, step: int) -> int:
        """Micro-batches of the first `step` steps, over all epochs."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return epoch * self.micro_batches_per_epoch + rest * self.accumulation

    def step_of(self, micro_batch: int) -> int:
        """The step, from 0, that a micro-batch (from 0, over all epochs) belongs to."""
        epoch, index = divmod(micro_batch, self.micro_batches_per_epoch)
        return epoch * self.steps_per_epoch + index // self.accumulation

    def ends_step(self, micro_batch: int) -> bool:
        """Whether a micro-batch is the last of its step."""
        index = micro_batch % self.micro_batches_per_epoch + 1
        return index % self.accumulation == 0 or index == self.micro_batches_per_epoch

    def rows_of_micro_batch(self, micro_batch: int) -> int:
        """Real rows of a micro-batch."""
        return min(self.batch_size, self.rows - micro_batch % self.micro_batches_per_epoch * self.batch_size)

    def rows_of_step(self, step: int) -> int:
        """Real rows of a step, over all its micro-batches."""
        size = self.accumulation * self.batch_size
        return min(size, self.rows - step % self.steps_per_epoch * size)

"""Training batches of a few static shapes, in an order that the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

import keras
import numpy as np

from kpeft.training.plan import Plan
from kpeft.training.widths import choose_widths, fit_width

# Micro-batches among which rows are sorted by length: enough to find rows of like length, few enough that batches
# stay random. Hugging Face's length-grouped sampler takes 50.
_WINDOW = 32


Beside = Callable[[int, float], Mapping[str, np.ndarray]]


class RowSource(Protocol):
    """Rows that batches are made of: `EncodedRows`, or what a frozen part has made of them."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def lengths(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Any, length: int, batch_size: int | None = None) -> dict[str, np.ndarray]: ...


def padded_batch(rows: RowSource, indices: np.ndarray, width: int, batch_size: int) -> dict[str, np.ndarray]:
    """Inputs of a static shape.

    A short batch is filled with copies of its first row. Whoever takes the batch gives them no weight; a row of
    nothing but padding would let attention divide by zero in some models, and zero times NaN is NaN.

    Args:
        rows: The rows.
        indices: Rows of the batch, shape (n,) with 1 <= n <= batch_size.
        width: Padded length.
        batch_size: Rows of the result.

    Returns:
        Arrays by input name, token ids and masks int32 of shape (batch_size, width).
    """
    filled = np.full(batch_size, indices[0], dtype=np.int64)
    filled[: len(indices)] = indices
    return rows.batch(filled, width, batch_size)


@final
class TrainBatches(keras.utils.PyDataset):
    """All micro-batches of a run, from `start` on, as one sequence: (inputs, labels, weights).

    Epochs follow each other without a seam, so that a run may begin and end within an epoch, which Keras's own
    epochs cannot. A real row weighs 1 / (real rows of its step), a filling row 0: with a loss that sums, the
    micro-batches of a step add up to the mean over the step's real rows.

    Each epoch takes the rows in a new random order, cuts it into windows of 32 micro-batches, sorts each window by
    length, and shuffles the window's micro-batches. The rows that do not fill a micro-batch come last.

    Args:
        rows: The rows.
        plan: The counts of the run.
        seed: Decides the order, with the epoch.
        start: Micro-batches to leave out at the beginning.
        shuffle: Without it, rows come in their own order in every epoch.
        beside: Gives further inputs of a micro-batch: (its number, its share of its step's rows) -> arrays by name.
    """

    def __init__(
        self,
        rows: RowSource,
        plan: Plan,
        *,
        seed: int = 0,
        start: int = 0,
        shuffle: bool = True,
        beside: Beside | None = None,
    ) -> None:
        super().__init__(workers=1)
        self.rows = rows
        self.plan = plan
        self.start = start
        self.widths = choose_widths(rows.lengths)
        self._lengths = rows.lengths
        self._seed = seed
        self._shuffle = shuffle
        self._beside = beside
        self._epoch = -1
        self._order: np.ndarray = np.arange(0)
        self._batch_widths: np.ndarray = np.arange(0)

    def __len__(self) -> int:
        return self.plan.micro_batches_before(self.plan.total_steps) - self.start

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        return self.padded(self.start + index, self.width(self.start + index))

    def padded(self, micro_batch: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """A micro-batch, counted over all epochs, at its own width or a larger one."""
        size = self.plan.batch_size
        indices = self.indices(micro_batch)
        weights = np.zeros(size, np.float32)
        weights[: len(indices)] = 1.0 / self.plan.rows_of_step(self.plan.step_of(micro_batch))
        labels = np.zeros((size, *self.rows.labels.shape[1:]), self.rows.labels.dtype)
        labels[: len(indices)] = self.rows.labels[indices]
        inputs = padded_batch(self.rows, indices, width, size)
        if self._beside is not None:
            inputs |= self._beside(micro_batch, float(weights.sum()))
        return inputs, labels, weights

    def indices(self, micro_batch: int) -> np.ndarray:
        """Rows of a micro-batch, counted over all epochs."""
        index = self._enter_epoch_of(micro_batch)
        return self._order[index * self.plan.batch_size : (index + 1) * self.plan.batch_size]

    def width(self, micro_batch: int) -> int:
        """Padded length of a micro-batch, counted over all epochs."""
        index = self._enter_epoch_of(micro_batch)  # first: it changes the widths
        return int(self._batch_widths[index])

    def _enter_epoch_of(self, micro_batch: int) -> int:
        epoch, index = divmod(micro_batch, self.plan.micro_batches_per_epoch)
        if epoch != self._epoch:
            lengths = self._lengths
            order = epoch_order(lengths, self.plan.batch_size, seed=self._seed, epoch=epoch) if self._shuffle else None
            self._order = np.arange(len(lengths)) if order is None else order
            starts = np.arange(0, len(lengths), self.plan.batch_size)
            self._batch_widths = fit_width(self.widths, np.maximum.reduceat(lengths[self._order], starts))
            self._epoch = epoch
        return index


def epoch_order(lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Order of the rows in one epoch; micro-batch `i` is `order[i * batch_size : (i + 1) * batch_size]`.

    Args:
        lengths: Tokens of each row, shape (rows,).
        batch_size: Rows of a micro-batch.
        seed: With the epoch, decides the order.
        epoch: From 0.

    Returns:
        A permutation of the rows, int64, shape (rows,).
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    shuffled = generator.permutation(len(lengths))
    full = len(lengths) // batch_size
    grouped, rest = shuffled[: full * batch_size], shuffled[full * batch_size :]
    windows = np.arange(len(grouped)) // (_WINDOW * batch_size)
    grouped = grouped[np.lexsort((lengths[grouped], windows))].reshape(full, batch_size)
    batches = np.lexsort((generator.random(full), np.arange(full) // _WINDOW))
    return np.concatenate([grouped[batches].ravel(), rest])

"""Logits of a whole split in row order, from few static shapes that are compiled once."""

from __future__ import annotations

from typing import Any, final

import keras
import numpy as np

from kpeft.training.batches import RowSource, padded_batch
from kpeft.training.widths import choose_widths, fit_width


@final
class EvalBatches(keras.utils.PyDataset):
    """Rows sorted by length, in batches of a few static shapes; the last is filled up with copies of a row.

    Args:
        rows: The rows.
        batch_size: Rows of a batch.
        widths: Rising padded lengths, the last at least the longest row; chosen from the rows when not given.
    """

    def __init__(self, rows: RowSource, batch_size: int, widths: tuple[int, ...] | None = None) -> None:
        super().__init__(workers=1)
        self.rows = rows
        self.batch_size = batch_size
        lengths = rows.lengths
        self.order = np.argsort(lengths, kind="stable")
        ends = np.minimum(np.arange(len(self)) * batch_size + batch_size, len(rows)) - 1
        self._widths = fit_width(widths or choose_widths(lengths), lengths[self.order[ends]])

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        indices = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return (padded_batch(self.rows, indices, int(self._widths[index]), self.batch_size),)


@final
class _NoCallbacks(keras.callbacks.CallbackList):
    """Keeps Keras from copying each batch's outputs to the host in a thread of its own."""

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        pass

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        pass


def predict_logits(
    model: keras.Model, rows: RowSource, batch_size: int, *, widths: tuple[int, ...] | None = None
) -> np.ndarray:
    """Logits of every row.

    Args:
        model: Takes the dictionary of arrays that the rows give, and gives logits, shape (batch, C).
        rows: The rows.
        batch_size: Rows of a batch.
        widths: Padded lengths to share between splits, so that they share what is compiled.

    Returns:
        float32 logits, shape (rows, C), in row order.
    """
    batches = EvalBatches(rows, batch_size, widths)
    batches[0]  # frozen layers may have to compute rows first; while Keras predicts, their variables hold no values
    sorted_logits = model.predict(batches, verbose=0, callbacks=_NoCallbacks())[: len(rows)]
    logits = np.empty(sorted_logits.shape, np.float32)
    logits[batches.order] = sorted_logits
    return logits

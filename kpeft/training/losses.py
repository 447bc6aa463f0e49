"""The task's loss, summed with row weights, and a metric that shows it for each micro-batch alone."""

from __future__ import annotations

from typing import Any, Literal, final

import keras

TaskLoss = Literal["classification", "regression"]


def make_loss(task_loss: TaskLoss) -> Any:
    """The loss of a micro-batch: `sum_i weight_i * loss_i`.

    Args:
        task_loss: `"classification"`: cross-entropy of logits (batch, C) and integer labels (batch,).
            `"regression"`: squared error of predictions (batch, 1) and float labels (batch,).

    Returns:
        A `keras.losses.Loss`.
    """
    if task_loss == "classification":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    if task_loss == "regression":
        return keras.losses.MeanSquaredError(reduction="sum")
    raise ValueError(f"Unknown loss. Expected classification or regression. Received: task_loss={task_loss!r}")


@final
class MicroBatchLoss(keras.metrics.Metric):
    """The weighted loss of the latest micro-batch, where Keras's own "loss" is a mean over the epoch so far.

    XLA computes it once, together with the loss that is differentiated.

    Args:
        loss: As from `make_loss`.
    """

    NAME = "micro_batch_loss"

    def __init__(self, loss: Any) -> None:
        super().__init__(name=self.NAME)
        self._loss = loss
        self.latest = self.add_variable((), initializer="zeros", name="latest")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.latest.assign(self._loss(y_true, y_pred, sample_weight=sample_weight))

    def result(self) -> Any:
        return self.latest.value

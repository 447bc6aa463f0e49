"""The task's loss, summed with row weights, and a metric that shows it for each micro-batch alone."""

from __future__ import annotations

from typing import Any, Literal, final

import keras
from keras import ops

from kpeft.config import Distillation

TaskLoss = Literal["classification", "regression"]


@final
class DistillationLoss(keras.losses.Loss):
    """(1 - w)·CE(y, z) + w·T²·KL(softmax(t/T) || softmax(z/T)), summed over rows; see `kpeft.config.Distillation`.

    Args:
        weight: w.
        temperature: T.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__(reduction="sum")
        self.weight = weight
        self.temperature = temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The loss of each row, (batch,), of y_true (batch, 1 + C), which holds y and t, and logits z (batch, C)."""
        labels, teacher = ops.cast(y_true[:, 0], "int32"), y_true[:, 1:] / self.temperature
        hard = keras.losses.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        expected, found = ops.log_softmax(teacher), ops.log_softmax(y_pred / self.temperature)
        soft = ops.sum(ops.exp(expected) * (expected - found), axis=-1)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * soft


def make_loss(task_loss: TaskLoss, distillation: Distillation | None = None) -> Any:
    """The loss of a micro-batch: `sum_i weight_i * loss_i`.

    Args:
        task_loss: `"classification"`: cross-entropy of logits (batch, C) and integer labels (batch,).
            `"regression"`: squared error of predictions (batch, 1) and float labels (batch,).
        distillation: For a classification whose labels are those of `DistillationLoss`.

    Returns:
        A `keras.losses.Loss`.
    """
    if distillation is not None:
        return DistillationLoss(distillation.weight, distillation.temperature)
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

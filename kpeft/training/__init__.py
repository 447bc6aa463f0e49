"""Training through `model.fit` on JAX."""

from __future__ import annotations

from kpeft.training.callbacks import Evaluation, FitState, NonFiniteLossError, StepCallback
from kpeft.training.frozen import trained_part
from kpeft.training.loop import TrainingResult, train
from kpeft.training.prediction import predict_logits
from kpeft.training.timing import Timing

__all__ = [
    "Evaluation",
    "FitState",
    "NonFiniteLossError",
    "StepCallback",
    "Timing",
    "TrainingResult",
    "predict_logits",
    "train",
    "trained_part",
]

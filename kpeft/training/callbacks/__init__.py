"""What happens between training steps."""

from __future__ import annotations

from kpeft.training.callbacks.base import FitState, StepCallback, StepEvents
from kpeft.training.callbacks.evaluation import Evaluation, Evaluations, Evaluator
from kpeft.training.callbacks.history import History
from kpeft.training.callbacks.interruption import Interruption
from kpeft.training.callbacks.loss_log import LossLog, NonFiniteLossError
from kpeft.training.callbacks.progress import Progress

__all__ = [
    "Evaluation",
    "Evaluations",
    "Evaluator",
    "FitState",
    "History",
    "Interruption",
    "LossLog",
    "NonFiniteLossError",
    "Progress",
    "StepCallback",
    "StepEvents",
]

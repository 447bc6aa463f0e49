"""Confusion matrices of two classes, solved from accuracy, precision, recall and the number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = ("accuracy", "precision", "recall", "f1")


@dataclass(frozen=True)
class Confusion:
    """Rows by label and prediction; class 1 is the positive one.

    Attributes:
        tn: Label 0, predicted 0.
        fp: Label 0, predicted 1.
        fn: Label 1, predicted 0.
        tp: Label 1, predicted 1.
    """

    tn: int
    fp: int
    fn: int
    tp: int

    def metrics(self) -> dict[str, float]:
        """Returns accuracy, precision, recall and F1; a quotient of nothing is 0."""
        right, predicted, positive = self.tn + self.tp, self.tp + self.fp, self.tp + self.fn
        return {
            "accuracy": right / (right + self.fp + self.fn),
            "precision": self.tp / predicted if predicted else 0.0,
            "recall": self.tp / positive if positive else 0.0,
            "f1": 2 * self.tp / (predicted + positive) if predicted + positive else 0.0,
        }


def solve(metrics: Mapping[str, float], rows: int) -> Confusion | None:
    """Returns the only confusion matrix with these metrics.

    With e = rows · (1 - accuracy) mistakes, precision P and recall R, FP = TP (1/P - 1) and FN = TP (1/R - 1), so
    TP = e / (1/P + 1/R - 2).

    Returns:
        The matrix; `None` where metrics are missing, contradict each other, or leave several: a model without mistakes,
        or one that finds no positive row.
    """
    if any(name not in metrics for name in _NAMES[:3]):
        return None
    accuracy, precision, recall = (metrics[name] for name in _NAMES[:3])
    if rows < 1 or not (0.5 / rows < precision <= 1 and 0.5 / rows < recall <= 1 and 0 <= accuracy < 1):
        return None  # one row that is found makes each at least 1 / rows
    odds = 1 / precision + 1 / recall - 2
    if odds <= 0:
        return None
    tp = rows * (1 - accuracy) / odds
    true, fp, fn = round(tp), round(tp * (1 / precision - 1)), round(tp * (1 / recall - 1))
    tn = rows - true - fp - fn
    if min(true, tn) < 0 or true + fp + fn == 0:
        return None
    solved = Confusion(tn=tn, fp=fp, fn=fn, tp=true)
    again = solved.metrics()
    same = all(math.isclose(again[name], metrics[name], abs_tol=1e-6) for name in _NAMES if name in metrics)
    return solved if same else None

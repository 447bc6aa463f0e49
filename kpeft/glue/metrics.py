"""GLUE's metrics over a whole split; predictions that carry no information score 0.0, never NaN.

Formulas and conventions are scikit-learn's and SciPy's. Precision, recall and F1 are those of class 1 for two classes
and the unweighted mean over classes (macro) for three.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpeft.glue.rows import HIDDEN
from kpeft.glue.tasks import Task

Array = np.ndarray


def confusion_matrix(labels: Array, predictions: Array, num_classes: int) -> Array:
    """Counts rows by true and predicted class.

    Args:
        labels: True classes, integers of shape (n,).
        predictions: Predicted classes, integers of shape (n,).
        num_classes: Number of classes C.

    Returns:
        int64 of shape (C, C); entry (i, j) counts rows of class i that were predicted as j.
    """
    flat = np.bincount(labels.astype(np.int64) * num_classes + predictions, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def accuracy(matrix: Array) -> float:
    """Returns the share of rows on the diagonal of a confusion matrix."""
    return _ratio(np.trace(matrix), matrix.sum())


def precision(matrix: Array) -> float:
    """Returns TP / (TP + FP), of class 1 or macro (see the module)."""
    return _per_class(matrix, lambda tp, predicted, actual: _ratio(tp, predicted))


def recall(matrix: Array) -> float:
    """Returns TP / (TP + FN), of class 1 or macro (see the module)."""
    return _per_class(matrix, lambda tp, predicted, actual: _ratio(tp, actual))


def f1(matrix: Array) -> float:
    """Returns 2 TP / (2 TP + FP + FN), of class 1 or macro (see the module)."""
    return _per_class(matrix, lambda tp, predicted, actual: _ratio(2 * tp, predicted + actual))


def matthews_correlation(matrix: Array) -> float:
    """Returns Matthews' correlation, for any number of classes.

    With n rows, c of them right, t_k of class k and p_k predicted as k:
    (n c - Σ t_k p_k) / sqrt((n² - Σ p_k²)(n² - Σ t_k²)). (Gorodkin, 2004, doi 10.1016/j.compbiolchem.2004.09.006)
    """
    counts = matrix.astype(np.float64)
    actual, predicted, total = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    covariance = total * np.trace(counts) - actual @ predicted
    return _ratio(covariance, np.sqrt((total**2 - actual @ actual) * (total**2 - predicted @ predicted)))


def pearson(labels: Array, predictions: Array) -> float:
    """Returns Pearson's correlation of two vectors of shape (n,); 0.0 where either is constant."""
    x, y = (np.asarray(values, np.float64) for values in (labels, predictions))
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = (_unit(values) for values in (x, y))
    return float(np.clip(x @ y, -1.0, 1.0))


def spearman(labels: Array, predictions: Array) -> float:
    """Returns Spearman's correlation: Pearson's of the ranks, ties sharing their mean rank."""
    return pearson(_ranks(labels), _ranks(predictions))


def mse(labels: Array, predictions: Array) -> float:
    """Returns the mean squared error."""
    return float(np.mean(np.square(np.asarray(predictions, np.float64) - labels)))


def mae(labels: Array, predictions: Array) -> float:
    """Returns the mean absolute error."""
    return float(np.mean(np.abs(np.asarray(predictions, np.float64) - labels)))


def cross_entropy(labels: Array, logits: Array) -> float:
    """Returns the mean of -log softmax(logits)[label], in float64, for logits of shape (n, C)."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


_OF_CLASSES: dict[str, Callable[[Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "matthews_correlation": matthews_correlation,
}
_OF_SCORES: dict[str, Callable[[Array, Array], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "mse": mse,
    "mae": mae,
    "loss": mse,
}


def compute_metrics(task: Task, logits: Array, labels: Array) -> dict[str, float]:
    """Computes what a task reports, over one whole split.

    Args:
        task: The task; its `metrics` name what is returned, in that order.
        logits: Outputs of the model in row order, shape (n, C) with C = `task.num_classes`.
        labels: True labels, shape (n,).

    Returns:
        Metrics as fractions by name; `"loss"` is the mean cross-entropy, or the mean squared error for regression.

    Raises:
        ValueError: If shapes do not agree, there are no rows, or labels are hidden.
        FloatingPointError: If a logit is NaN or infinite.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    _check(task, logits, labels)
    if task.regression:
        return {name: _OF_SCORES[name](labels, logits[:, 0]) for name in task.metrics}
    matrix = confusion_matrix(labels, logits.argmax(axis=1), task.num_classes)
    return {
        name: cross_entropy(labels, logits) if name == "loss" else _OF_CLASSES[name](matrix) for name in task.metrics
    }


def _check(task: Task, logits: Array, labels: Array) -> None:
    expected = (len(labels), task.num_classes)
    if logits.shape != expected or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"{task.title} needs logits of shape (rows, {task.num_classes}) and labels of shape (rows,), at least one "
            f"row. Received: logits {logits.shape}, labels {labels.shape}"
        )
    hidden = int(np.sum(labels == HIDDEN))
    if hidden:
        raise ValueError(f"{task.title}: {hidden} of {len(labels)} rows have no label, so they cannot be scored.")
    if not task.regression and not np.all((labels >= 0) & (labels < task.num_classes)):
        raise ValueError(f"{task.title} has labels 0 to {task.num_classes - 1}. Received: {np.unique(labels)[:8]}")
    if not np.all(np.isfinite(logits)):
        raise FloatingPointError(f"{task.title}: {int(np.sum(~np.isfinite(logits)))} logits are NaN or infinite.")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _per_class(matrix: Array, score: Callable[[int, int, int], float]) -> float:
    scores = [score(matrix[k, k], matrix[:, k].sum(), matrix[k].sum()) for k in range(len(matrix))]
    return scores[1] if len(scores) == 2 else float(np.mean(scores))


def _unit(values: Array) -> Array:
    # Scaled first, so that squares of very large or very small deviations stay finite and above zero.
    scaled = values / np.abs(values).max()
    centred: Array = scaled - scaled.mean()
    peak = np.abs(centred).max()
    if peak == 0:  # values that differ in their last bit only
        return centred
    return np.asarray(centred / (peak * np.linalg.norm(centred / peak)))


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])

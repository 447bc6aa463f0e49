from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from kpeft.glue import metrics
from kpeft.glue.tasks import TASKS, get_task

RANDOM = np.random.default_rng(7)


def classes(count: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return RANDOM.integers(0, count, rows), RANDOM.normal(size=(rows, count)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7, 500])
@pytest.mark.parametrize("name", ["cola", "mnli"])
def test_classes_agree_with_scikit_learn(name: str, rows: int) -> None:
    task = get_task(name)
    count = task.num_classes
    labels, logits = classes(count, rows)
    predictions = logits.argmax(1)
    matrix = metrics.confusion_matrix(labels, predictions, count)
    which = {"average": "binary"} if count == 2 else {"average": "macro", "labels": range(count)}
    score = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "precision": sklearn.metrics.precision_score(labels, predictions, zero_division=0, **which),
        "recall": sklearn.metrics.recall_score(labels, predictions, zero_division=0, **which),
        "f1": sklearn.metrics.f1_score(labels, predictions, zero_division=0, **which),
        "loss": -np.mean(scipy.special.log_softmax(logits.astype(np.float64), axis=1)[np.arange(rows), labels]),
    }
    if rows > 1:  # scikit-learn divides by zero on a single row
        score["matthews_correlation"] = sklearn.metrics.matthews_corrcoef(labels, predictions)
    computed = metrics.compute_metrics(task, logits, labels)
    computed["matthews_correlation"] = metrics.matthews_correlation(matrix)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(labels, predictions, labels=range(count)))
    for metric, expected in score.items():
        assert computed[metric] == pytest.approx(expected, abs=1e-12), metric


@pytest.mark.parametrize("rows", [3, 10, 400])
@pytest.mark.parametrize("ties", [False, True])
def test_scores_agree_with_scipy(rows: int, ties: bool) -> None:
    labels = RANDOM.uniform(0, 5, rows).astype(np.float32)
    logits = (labels + RANDOM.normal(size=rows))[:, None].astype(np.float32)
    if ties:
        labels, logits = np.round(labels), np.round(logits)
    labels[0], logits[0] = 9, 9
    computed = metrics.compute_metrics(get_task("stsb"), logits, labels)
    x, y = labels.astype(np.float64), logits[:, 0].astype(np.float64)
    assert computed == pytest.approx(
        {
            "pearson": scipy.stats.pearsonr(x, y).statistic,
            "spearman": scipy.stats.spearmanr(x, y).statistic,
            "mse": sklearn.metrics.mean_squared_error(x, y),
            "mae": sklearn.metrics.mean_absolute_error(x, y),
            "loss": sklearn.metrics.mean_squared_error(x, y),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7, 1e30])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_constant_scores_correlate_with_nothing(constant: float, rows: int) -> None:
    steady, varied = np.full(rows, constant, np.float32), np.linspace(0, 5, rows)
    for correlation in (metrics.pearson, metrics.spearman):
        assert correlation(steady, varied) == 0.0
        assert correlation(varied, steady) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e200])
def test_pearson_survives_any_scale(scale: float) -> None:
    x, y = RANDOM.normal(size=50), RANDOM.normal(size=50)
    assert metrics.pearson(x * scale, y) == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-12)


def test_values_that_differ_in_the_last_bit_are_no_nan() -> None:
    values = np.array([1.0, np.nextafter(1.0, 2.0), 1.0])
    assert np.isfinite(metrics.pearson(values, np.arange(3.0)))
    assert np.isfinite(metrics.pearson(values * 3, np.arange(3.0)))


@pytest.mark.parametrize("name", ["cola", "mrpc", "mnli"])
def test_one_class_predicted_throughout_is_zero_not_nan(name: str) -> None:
    task = get_task(name)
    labels = np.arange(12) % task.num_classes
    logits = np.zeros((12, task.num_classes))
    logits[:, 0] = 50.0
    computed = metrics.compute_metrics(task, logits, labels)
    assert computed["accuracy"] == pytest.approx(1 / task.num_classes)
    assert metrics.matthews_correlation(metrics.confusion_matrix(labels, logits.argmax(1), task.num_classes)) == 0.0
    if task.num_classes == 2:
        assert computed["f1"] == computed["precision"] == computed["recall"] == 0.0
    assert all(np.isfinite(value) and type(value) is float for value in computed.values())


def test_only_one_true_class() -> None:
    computed = metrics.compute_metrics(get_task("cola"), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert computed["matthews_correlation"] == computed["recall"] == computed["f1"] == 0.0
    assert computed["accuracy"] == 0.5


def test_perfect_and_inverted() -> None:
    labels = np.array([0, 1, 1, 0])
    right = np.eye(2)[labels]
    assert metrics.compute_metrics(get_task("cola"), right, labels)["matthews_correlation"] == 1.0
    assert metrics.compute_metrics(get_task("cola"), -right, labels)["matthews_correlation"] == -1.0


def test_loss_of_extreme_logits_is_exact() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]], np.float32)
    assert metrics.cross_entropy(np.array([0, 0]), logits) == pytest.approx(5000.0)


@pytest.mark.parametrize("name", list(TASKS))
def test_names_and_order_are_the_tasks(name: str) -> None:
    task = get_task(name)
    labels, logits = classes(task.num_classes, 40)
    assert tuple(metrics.compute_metrics(task, logits, labels)) == task.metrics


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((3, 2)), np.array([0, -1, 1]), "1 of 3 rows have no label"),
        (np.zeros((3, 2)), np.array([0, 2, 1]), "labels 0 to 1. Received"),
        (np.zeros((3, 3)), np.array([0, 1, 1]), r"shape \(rows, 2\).*Received: logits \(3, 3\)"),
        (np.zeros((2, 2)), np.array([0, 1, 1]), r"labels \(3,\)"),
        (np.zeros((0, 2)), np.zeros(0), "at least one row"),
    ],
)
def test_wrong_input_is_one_clear_line(logits: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.compute_metrics(get_task("mrpc"), logits, labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_no_score(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="1 logits are NaN or infinite"):
        metrics.compute_metrics(get_task("stsb"), np.array([[bad], [1.0]]), np.array([0.0, 1.0]))

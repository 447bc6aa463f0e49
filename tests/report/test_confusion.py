from __future__ import annotations

import itertools

import numpy as np
import pytest
from report_folders import metrics
from sklearn.metrics import accuracy_score, confusion_matrix, precision_score, recall_score

from kpeft.report.confusion import Confusion, solve


@pytest.mark.parametrize("rows", [7, 408, 40_430])
def test_the_matrix_of_random_predictions_is_found_again(rows: int) -> None:
    random = np.random.default_rng(rows)
    for share in (0.1, 0.5, 0.9):
        labels = (random.random(rows) < share).astype(int)
        predictions = np.where(random.random(rows) < 0.7, labels, 1 - labels)
        predictions[:2], labels[:2] = 1, (0, 1)  # a mistake and a hit there is
        scores = {
            "accuracy": float(accuracy_score(labels, predictions)),
            "precision": float(precision_score(labels, predictions)),
            "recall": float(recall_score(labels, predictions)),
        }
        found = solve(scores, rows)
        assert found is not None
        assert [[found.tn, found.fp], [found.fn, found.tp]] == confusion_matrix(labels, predictions).tolist()


def test_every_small_matrix_is_found_or_refused_for_a_reason() -> None:
    for tn, fp, fn, tp in itertools.product(range(4), repeat=4):
        if tp == 0:  # precision and recall are 0, whatever fp and fn are
            continue
        found = solve(metrics(tn=tn, fp=fp, fn=fn, tp=tp), tn + fp + fn + tp)
        assert found == (Confusion(tn, fp, fn, tp) if fp or fn else None)


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": 0.9},
        {"precision": 0.5},
        {"recall": 0.0},
        {"f1": 0.1},
        {"recall": 1.5},
        {"recall": 1e-320},
        {"accuracy": -1.0},
    ],
)
def test_metrics_that_contradict_each_other_give_none(change: dict[str, float]) -> None:
    scores = metrics(tn=80, fp=49, fn=25, tp=254)
    assert solve(scores, 408) == Confusion(80, 49, 25, 254)
    assert solve({**scores, **change}, 408) is None
    assert solve(scores, 400) is None
    assert solve(scores, 0) is None


def test_missing_metrics_give_none() -> None:
    assert solve({"accuracy": 0.5, "precision": 0.5}, 10) is None

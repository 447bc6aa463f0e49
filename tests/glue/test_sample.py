from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from kpeft.glue.rows import Rows
from kpeft.glue.sample import ROWS, SampleSource
from kpeft.glue.tasks import TASKS, get_task

EVERY = [(task.name, split) for task in TASKS.values() for split in task.splits]


def rows(name: str, split: str, seed: int = 0) -> Rows:
    return SampleSource(seed).rows(get_task(name), split)


def pairs(found: Rows) -> list[tuple[str, ...]]:
    return list(zip(*found.texts, strict=True))


@pytest.mark.parametrize(("name", "split"), EVERY)
def test_rows_have_the_shape_and_labels_of_the_task(name: str, split: str) -> None:
    task, found = get_task(name), rows(name, split)
    assert len(found) == ROWS[split.split("_")[0]]
    assert len(found.texts) == len(task.fields)
    assert all(text == text.strip() and len(text) > 8 for column in found.texts for text in column)
    assert "{" not in str(found.texts)
    assert "  " not in str(found.texts)
    if split in task.test.values():
        assert set(found.labels) == {-1}
    elif task.regression:
        assert found.labels.dtype == np.float32
        assert found.labels.min() == 0
        assert found.labels.max() == 5
        assert 1.8 < found.labels.mean() < 3.2
        assert len(set(found.labels.tolist())) >= 9
    else:
        assert found.labels.dtype == np.int32
        counts = Counter(found.labels.tolist())
        assert sorted(counts) == list(range(task.num_classes))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", list(TASKS))
def test_no_row_is_twice_in_a_task(name: str) -> None:
    every = [pair for split in get_task(name).splits for pair in pairs(rows(name, split))]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("name", "split", "digest"),
    [
        ("mrpc", "train", "cd7dc45d5c18104c"),
        ("rte", "validation", "1b2a77e4bb71ef0e"),
        ("stsb", "validation", "b037ed42e3afbda1"),
        ("mnli", "validation_mismatched", "8d8fce5fcd94e478"),
        ("cola", "train", "b26d0e763319e3cb"),
        ("wnli", "train", "5399a9eaf96f739f"),
    ],
)
def test_same_rows_everywhere(name: str, split: str, digest: str) -> None:
    found = rows(name, split)
    text = "\n".join("\t".join((*pair, f"{label:g}")) for pair, label in zip(pairs(found), found.labels, strict=True))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_another_seed_gives_other_rows() -> None:
    assert set(pairs(rows("mrpc", "train"))) != set(pairs(rows("mrpc", "train", seed=1)))


def bags_of_words(first: list[str], second: list[str], count: int) -> dict[str, csr_matrix]:
    """Features that see words and their overlap, and neither order nor meaning; fitted on the first `count` rows."""
    vectorizer = CountVectorizer(token_pattern=r"\w+").fit(first[:count] + second[:count])
    a, b = vectorizer.transform(first), vectorizer.transform(second)
    shared, different = a.minimum(b), abs(a - b)
    totals = csr_matrix(np.stack([np.asarray(x.sum(axis=1)).ravel() for x in (a, b, shared, different)], axis=1))
    return {
        "one bag": a + b,
        "two bags": hstack([a, b]),
        "overlap": hstack([shared, different]),
        "counts": totals,
        "all": hstack([a, b, shared, different, totals]),
    }


@pytest.mark.parametrize("name", ["mrpc", "rte"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_bag_of_words_stays_at_chance(name: str, seed: int) -> None:
    train, validation = rows(name, "train", seed), rows(name, "validation", seed)
    count = len(train)
    first, second = (a + b for a, b in zip(train.texts, validation.texts, strict=True))
    scores = {}
    for kind, features in bags_of_words(first, second, count).items():
        for strength in (0.01, 1.0):
            model = LogisticRegression(C=strength, max_iter=500, solver="liblinear")
            model.fit(features.tocsr()[:count], train.labels)
            scores[kind, strength] = model.score(features.tocsr()[count:], validation.labels)
    assert max(scores.values()) <= 0.60, scores


def test_paraphrases_are_told_in_other_words() -> None:
    found = rows("mrpc", "train")
    same = [set(a.lower().split()) == set(b.lower().split()) for a, b in pairs(found)]
    assert np.mean(same) < 0.05

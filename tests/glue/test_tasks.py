from __future__ import annotations

import subprocess
import sys

import pytest

from kpeft.glue.tasks import TASKS, get_task

NAMES = ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"]
METRICS = {
    "accuracy", "f1", "precision", "recall", "matthews_correlation", "pearson", "spearman", "mse", "mae", "loss",
}  # fmt: skip


def test_the_ten_tasks_in_their_order() -> None:
    assert list(TASKS) == NAMES
    assert all(get_task(name).name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_fields_and_labels_are_those_of_tfds(name: str) -> None:
    from tensorflow_datasets.text.glue import Glue

    config = Glue.builder_configs[name]
    assert get_task(name).fields == tuple(config.text_features)
    assert get_task(name).labels == tuple(config.label_classes or ())


@pytest.mark.parametrize(("name", "classes"), [("stsb", 1), ("mnli", 3), ("ax", 3), ("mrpc", 2), ("cola", 2)])
def test_num_classes(name: str, classes: int) -> None:
    task = get_task(name)
    assert task.num_classes == classes
    assert task.regression == (name == "stsb")


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_known_and_selection_is_among_them(name: str) -> None:
    task = get_task(name)
    assert set(task.metrics) <= METRICS
    assert len(set(task.metrics)) == len(task.metrics)
    assert task.metrics[-1] == "loss"
    reported = {f"{prefix}/{metric}" if prefix else metric for prefix in task.validation for metric in task.metrics}
    assert name == "ax" or set(task.selection) | set(task.baseline) <= reported


@pytest.mark.parametrize(
    ("name", "metrics", "expected"),
    [
        ("cola", {"matthews_correlation": 0.25, "accuracy": 0.9}, 0.25),
        ("mrpc", {"accuracy": 0.5, "f1": 0.75, "loss": 9.0}, 0.625),
        ("qqp", {"accuracy": 0.25, "f1": 0.75}, 0.5),
        ("stsb", {"pearson": 0.5, "spearman": 1.0, "mse": 3.0}, 0.75),
        ("mnli", {"matched/accuracy": 0.5, "mismatched/accuracy": 1.0}, 0.5),
        ("rte", {"accuracy": 0.5, "f1": 1.0}, 0.5),
    ],
)
def test_selection_score(name: str, metrics: dict[str, float], expected: float) -> None:
    assert get_task(name).selection_score(metrics) == expected


def test_selection_score_names_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"^mrpc is selected by accuracy and f1; f1 is missing. Received: accuracy$"):
        get_task("mrpc").selection_score({"accuracy": 1.0})


def test_splits() -> None:
    assert get_task("rte").splits == ("train", "validation", "test")
    assert get_task("ax").splits == ("test",)
    assert get_task("mnli").splits == (
        "train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched",
    )  # fmt: skip


@pytest.mark.parametrize(("name", "near"), [("mprc", "mrpc"), ("SST-2", "sst2"), ("sts-b", "stsb"), ("colla", "cola")])
def test_unknown_task_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"Did you mean '{near}'.*Received: task='{name}'"):
        get_task(name)


def test_unknown_task_with_nothing_near_lists_all() -> None:
    with pytest.raises(ValueError, match=r"^Unknown GLUE task. Known: cola, sst2, mrpc"):
        get_task("imagenet")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("kpeft.glue", "numpy keras jax tensorflow tensorflow_datasets"),
        ("kpeft.glue.sources", "keras jax tensorflow tensorflow_datasets sklearn"),
        ("kpeft.glue.metrics", "keras jax tensorflow tensorflow_datasets sklearn"),
    ],
)
def test_imports_nothing_heavy(module: str, unwanted: str) -> None:
    code = f"import sys, {module}; print([name for name in {unwanted.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The ten GLUE tasks as data: fields, labels, metrics and splits (Wang et al., 2019, arXiv 1804.07461)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

_BINARY = ("accuracy", "f1", "precision", "recall", "loss")
_PAIR = ("sentence1", "sentence2")
_NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One GLUE task.

    Attributes:
        name: Name on the command line, which is also tfds' configuration (`"mrpc"` for `glue/mrpc`).
        title: Name as GLUE's authors write it.
        fields: Names of the text features, as in tfds; one or two.
        labels: Class names by index, in tfds' order; empty for regression.
        metrics: Names of the metrics that are reported, GLUE's own first.
        selection: Names whose mean decides which evaluation was the best.
        train: Name of the training split, or `None` where there is none.
        validation: Splits that are evaluated, by the prefix of their metrics (`""` where there is only one).
        test: Splits whose labels are not public everywhere, by prefix.
        baseline: Development scores that a BERT-sized model fine-tuned with care should reach.
    """

    name: str
    title: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = _BINARY
    selection: tuple[str, ...] = ("accuracy",)
    train: str | None = "train"
    validation: Mapping[str, str] = field(default_factory=lambda: {"": "validation"}, hash=False)
    test: Mapping[str, str] = field(default_factory=lambda: {"": "test"}, hash=False)
    baseline: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def regression(self) -> bool:
        """Whether the label is a score and not a class."""
        return not self.labels

    @property
    def num_classes(self) -> int:
        """Width of the logits: the number of classes, 1 for regression."""
        return len(self.labels) or 1

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of all splits, training first."""
        return (*((self.train,) if self.train else ()), *self.validation.values(), *self.test.values())

    def selection_score(self, metrics: Mapping[str, float]) -> float:
        """Returns the number that decides which evaluation was the best: higher is better.

        Args:
            metrics: Metrics of one evaluation by their full names, `"matched/accuracy"` for MNLI.

        Raises:
            ValueError: If one of `selection` is not among them.
        """
        missing = [name for name in self.selection if name not in metrics]
        if missing:
            raise ValueError(
                f"{self.name} is selected by {' and '.join(self.selection)}; {', '.join(missing)} is missing. "
                f"Received: {', '.join(metrics) or 'no metrics'}"
            )
        return sum(metrics[name] for name in self.selection) / len(self.selection)


_ALL = (
    Task(
        name="cola",
        title="CoLA",
        fields=("sentence",),
        labels=("unacceptable", "acceptable"),
        metrics=("matthews_correlation", *_BINARY),
        selection=("matthews_correlation",),
        baseline={"matthews_correlation": 0.6},
    ),
    Task(
        name="sst2",
        title="SST-2",
        fields=("sentence",),
        labels=("negative", "positive"),
        baseline={"accuracy": 0.88},
    ),
    Task(
        name="mrpc",
        title="MRPC",
        fields=_PAIR,
        labels=("not_equivalent", "equivalent"),
        selection=("accuracy", "f1"),
        baseline={"accuracy": 0.8},
    ),
    Task(
        name="stsb",
        title="STS-B",
        fields=_PAIR,
        labels=(),
        metrics=("pearson", "spearman", "mse", "mae", "loss"),
        selection=("pearson", "spearman"),
        baseline={"pearson": 0.8},
    ),
    Task(
        name="qqp",
        title="QQP",
        fields=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        selection=("accuracy", "f1"),
        baseline={"accuracy": 0.8, "f1": 0.8},
    ),
    Task(
        name="mnli",
        title="MNLI",
        fields=("premise", "hypothesis"),
        labels=_NLI,
        selection=("matched/accuracy",),
        validation={"matched": "validation_matched", "mismatched": "validation_mismatched"},
        test={"matched": "test_matched", "mismatched": "test_mismatched"},
        baseline={"matched/accuracy": 0.8, "mismatched/accuracy": 0.8},
    ),
    Task(
        name="qnli",
        title="QNLI",
        fields=("question", "sentence"),
        labels=("entailment", "not_entailment"),
        baseline={"accuracy": 0.85},
    ),
    Task(
        name="rte",
        title="RTE",
        fields=_PAIR,
        labels=("entailment", "not_entailment"),
        baseline={"accuracy": 0.7},
    ),
    Task(
        name="wnli",
        title="WNLI",
        fields=_PAIR,
        labels=("not_entailment", "entailment"),
        baseline={"accuracy": 0.8},
    ),
    Task(
        name="ax",
        title="AX",
        fields=("premise", "hypothesis"),
        labels=_NLI,
        metrics=("matthews_correlation", "accuracy", "loss"),
        selection=("matthews_correlation",),
        train=None,
        validation={},
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def get_task(name: str) -> Task:
    """Returns the task of that name.

    Args:
        name: One of `TASKS`.

    Raises:
        ValueError: If there is no such task; names the nearest.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name.lower().replace("-", ""), TASKS, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"Unknown GLUE task. {hint}Known: {', '.join(TASKS)}. Received: task={name!r}")

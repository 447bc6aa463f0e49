"""Starting from the adapter of another task: its body to the bit, and the model's own head."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import Run, assert_refused, result

import kpeft
from kpeft.experiment import place_method
from kpeft.sites import variable_paths
from tests.tiny import tiny_classifier

METHODS = {
    "lora": kpeft.LoRA(rank=3, alpha=7, targets="all-linear", bias="all"),
    "bitfit": kpeft.BitFit(),
    "full": kpeft.Full(),
}


def values(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {path: np.array(keras.ops.convert_to_numpy(v.value)) for path, v in variable_paths(model).items()}


def saved(
    folder: Path, method: kpeft.Method, task: str | None, labels: int = 3, family: str = "bert"
) -> dict[str, Any]:
    """A run's adapter, its numbers random; returns what the model then held."""
    adaptation = kpeft.adapt(tiny_classifier(family, num_classes=labels), method)
    rng = np.random.default_rng(0)
    for variable in adaptation.trained_variables().values():
        variable.assign(rng.normal(size=variable.shape))
    kpeft.save_adapter(adaptation, folder / "adapter")
    if task is not None:
        (folder / "result.json").write_text(json.dumps({"task": task}))
    return values(adaptation.model)


def config(folder: Path, task: str) -> kpeft.RunConfig:
    return kpeft.RunConfig(task=task, method=None, adapter=str(folder / "adapter"), output_dir="out", preset="x")


def in_head(path: str) -> bool:
    return path.startswith(("logits/", "pooled_dense/"))


@pytest.mark.parametrize(
    ("family", "method", "task", "labels"),
    [
        ("bert", "lora", "rte", 2),
        ("bert", "lora", "stsb", 1),
        ("bert", "bitfit", "rte", 2),
        ("bert", "full", "stsb", 1),
        ("roberta", "lora", "rte", 2),
        ("deberta_v3", "lora", "stsb", 1),
    ],
)
def test_an_mnli_adapter_starts_another_task(
    family: str, method: str, task: str, labels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = saved(tmp_path, METHODS[method], "mnli", family=family)
    model = tiny_classifier(family, num_classes=labels)
    fresh = values(model)
    with caplog.at_level(logging.WARNING, "kpeft"):
        adaptation = place_method(model, config(tmp_path, task))
    assert adaptation.method == METHODS[method]
    assert "its head, of 3 labels of mnli, is left out" in caplog.text
    start = values(model)
    assert start.keys() == trained.keys()
    for path, value in start.items():
        np.testing.assert_array_equal(value, fresh[path] if in_head(path) else trained[path])
    adaptation.detach()
    assert all(np.array_equal(value, fresh[path]) for path, value in values(model).items())


@pytest.mark.parametrize(
    ("trained_on", "task", "kept"),
    [
        ("qqp", "mrpc", False),
        ("mrpc", "mrpc", True),
        (None, "mrpc", True),
        ("mnli", "ax", True),
        ("mnli", "rte", False),
    ],
)
def test_the_head_stays_for_the_same_task(trained_on: str | None, task: str, kept: bool, tmp_path: Path) -> None:
    labels = 3 if trained_on == "mnli" else 2
    trained = saved(tmp_path, kpeft.LoRA(), trained_on, labels)
    model = tiny_classifier("bert", num_classes=kpeft.TASKS[task].num_classes)
    place_method(model, config(tmp_path, task))
    assert np.array_equal(values(model)["logits/bias"], trained["logits/bias"]) == kept


def test_an_adapter_without_a_head_has_none_to_drop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, kpeft.LoRA(train_head=False), "mnli")
    place_method(tiny_classifier("bert", num_classes=2), config(tmp_path, "rte"))
    assert "head" not in caplog.text


def test_the_choice_in_the_library(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoRA(), None)
    with pytest.raises(ValueError, match="classifier"):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path / "adapter")
    assert kpeft.load_adapter(tiny_classifier("bert"), tmp_path / "adapter", head="drop").method.train_head
    with pytest.raises(ValueError, match=r"head must be one of keep, drop. Received: head='new'"):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path / "adapter", head="new")


def test_a_run_says_so_and_trains(kpeft_run: Run, finished_run: Path, tmp_path: Path) -> None:
    start = ("--adapter", finished_run / "adapter", "--max-steps", "1")
    outcome = kpeft_run("--task", "stsb", *start, "--output-dir", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "its head, of 2 labels of mrpc, is left out; the run starts with the model's own" in outcome.out
    assert result(tmp_path / "run")["config"]["method"] == result(finished_run)["config"]["method"]
    assert_refused(kpeft_run("--task", "ax", *start, "--output-dir", tmp_path / "ax"), "classifier")

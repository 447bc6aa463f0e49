"""A run that learns from another: the loss in float64, what the teacher says, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_refused, basic_arguments, history, result, run_in_process
from scipy.special import log_softmax, softmax

from kpeft.adapters import load_adapter
from kpeft.backbones.loading import load_backbone
from kpeft.config import DataConfig, Distillation, RunConfig
from kpeft.data import load_data
from kpeft.distillation import with_teacher
from kpeft.glue.sample import SampleSource
from kpeft.glue.tasks import get_task
from kpeft.training import predict_logits
from kpeft.training.losses import make_loss


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (1.0, 1.0), (0.3, 0.7)])
def test_the_loss(weight: float, temperature: float) -> None:
    rng = np.random.default_rng(0)
    labels, teacher, logits = rng.integers(0, 3, 5), rng.normal(size=(5, 3)) * 3, rng.normal(size=(5, 3)) * 3
    row_weights = rng.uniform(size=5)
    hard = -log_softmax(logits, -1)[np.arange(5), labels]
    expected = softmax(teacher / temperature, -1)
    soft = (expected * (np.log(expected) - log_softmax(logits / temperature, -1))).sum(-1)
    rows = (1 - weight) * hard + weight * temperature**2 * soft
    loss = make_loss("classification", Distillation(teacher="x", weight=weight, temperature=temperature))
    y = np.concatenate([labels[:, None], teacher], axis=1).astype("float32")
    found = loss(y, logits.astype("float32"), sample_weight=row_weights.astype("float32"))
    np.testing.assert_allclose(found, (row_weights * rows).sum(), rtol=1e-5)
    same = loss(np.concatenate([labels[:, None], logits], axis=1).astype("float32"), logits.astype("float32"))
    np.testing.assert_allclose(same, ((1 - weight) * hard).sum(), rtol=1e-5)


@pytest.fixture(scope="module")
def teacher(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished full fine-tuning of MRPC."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    flags = ["--method", "full", "--learning-rate", "1e-2", "--output-dir", str(folder)]
    assert run_in_process([*basic_arguments(tiny_preset), *flags]) == 0
    return folder


def rows_and_config(preset: Path, teacher: Path, task: str = "mrpc", **options: Any) -> Any:
    data = DataConfig(offline=True, max_length=16, limit=20)
    distillation = Distillation(teacher=str(teacher / "adapter"), **options)
    config = RunConfig(
        task=task, method=None, adapter="none", preset=str(preset), data=data, output_dir="", distillation=distillation
    )
    classes = get_task(task).num_classes
    backbone = load_backbone(str(preset), classes)
    rows = load_data(get_task(task), SampleSource(), backbone, data, 0).train
    return rows, config


def test_labels_are_the_teachers_logits_after_the_class(tiny_preset: Path, teacher: Path) -> None:
    rows, config = rows_and_config(tiny_preset, teacher)
    taught = with_teacher(rows, get_task("mrpc"), config, "float32", 8)
    model = load_backbone(str(tiny_preset), 2, seed=5).classifier
    logits = predict_logits(load_adapter(model, teacher / "adapter").model, rows, 8)
    np.testing.assert_array_equal(taught.labels[:, 0], rows.labels)
    np.testing.assert_allclose(np.asarray(taught.labels[:, 1:], float), logits, atol=1e-6)
    assert np.abs(logits).max() > 0.01
    assert taught.take([3, 1]).labels.shape == (2, 3)


def test_a_regression_mixes_the_targets(tiny_preset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stsb"
    flags = ["--task", "stsb", "--method", "bitfit", "--output-dir", str(folder)]
    assert run_in_process([*basic_arguments(tiny_preset), *flags]) == 0
    rows, config = rows_and_config(tiny_preset, folder, "stsb", weight=0.25)
    taught = with_teacher(rows, get_task("stsb"), config, "float32", 8)
    model = load_backbone(str(tiny_preset), 1, seed=5).classifier
    predicted = predict_logits(load_adapter(model, folder / "adapter").model, rows, 8)[:, 0]
    np.testing.assert_allclose(np.asarray(taught.labels, float), 0.75 * rows.labels + 0.25 * predicted, rtol=1e-5)


def test_a_student_comes_near_its_teacher(tiny_preset: Path, teacher: Path, tmp_path: Path, kpeft_run: Run) -> None:
    """With the teacher's word alone the loss is a divergence, which falls towards zero."""
    folder = tmp_path / "student"
    flags = "--method full --learning-rate 1e-2 --epochs 8 --distillation-weight 1 --temperature 1 --schedule constant"
    ran = kpeft_run(*flags.split(), "--teacher", teacher / "adapter", "--output-dir", folder)
    assert ran.status == 0, ran.err
    losses = [line["loss"] for line in history(folder) if "loss" in line]
    assert 0 <= losses[-1] < 0.2 * losses[0]
    own = {"teacher": str(teacher / "adapter"), "weight": 1.0, "temperature": 1.0}
    assert result(folder)["config"]["distillation"] == own


def test_bad_teachers(tiny_preset: Path, teacher: Path, tmp_path: Path, kpeft_run: Run) -> None:
    def refused(*flags: str | Path, named: str) -> None:
        assert_refused(kpeft_run("--output-dir", tmp_path / "out", *flags), named)
        assert not (tmp_path / "out").exists()

    refused("--temperature", "3", named="--temperature needs a --teacher")
    refused("--teacher", "x", "--temperature", "0", named="temperature must be above 0")
    refused("--teacher", "x", "--distillation-weight", "1.5", named="distillation-weight must be above 0 and at most 1")
    refused("--teacher", tmp_path / "none", named=str(tmp_path / "none"))
    refused("--task", "rte", "--teacher", teacher / "adapter", named="is of task mrpc, and the run's is rte")
    other = shutil.copytree(teacher, tmp_path / "other")
    (other / "result.json").write_text('{"task": "mrpc", "preset": "minilm"}')
    refused("--teacher", other / "adapter", named=f"is of preset minilm, and the run's is {tiny_preset}")
    refused("--seed", "0,1", "--teacher", teacher / "adapter", named="--teacher does not go with several runs at once")
    alone = shutil.copytree(teacher / "adapter", tmp_path / "alone")  # no result.json tells its task
    refused("--task", "mnli", "--teacher", alone, named="logits/kernel has shape (16, 2), but the model needs (16, 3)")

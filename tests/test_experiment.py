"""Runs as a Python program makes them: every kind of task, and what goes into the files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import history

from kpeft import experiment
from kpeft.config import DataConfig, RunConfig, TrainingConfig
from kpeft.experiment import run_experiment
from kpeft.glue.sample import ROWS
from kpeft.glue.tasks import TASKS
from kpeft.methods import BitFit, LoRA, Prompt
from kpeft.results import read_result


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_rows(monkeypatch)


def cut_rows(patch: pytest.MonkeyPatch) -> None:
    for split, rows in {"train": 48, "validation": 48, "test": 32}.items():
        patch.setitem(ROWS, split, rows)


def small(task: str, preset: Path, folder: Path, **changes: Any) -> RunConfig:
    """One epoch of three steps of BitFit, all rows of one padded length."""
    settings: dict[str, Any] = {
        "task": task,
        "method": BitFit(),
        "preset": str(preset),
        "data": DataConfig(offline=True, max_length=16),
        "training": TrainingConfig(epochs=1),
        "output_dir": str(folder),
        **changes,
    }
    return RunConfig(**settings)


@pytest.fixture(scope="module")
def mnli_run(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnli")
    with pytest.MonkeyPatch.context() as patch:
        cut_rows(patch)
        run_experiment(small("mnli", tiny_preset, folder))
    return folder


def test_mnli_is_evaluated_on_both_validation_splits(mnli_run: Path) -> None:
    result = read_result(mnli_run)
    names = {"accuracy", "f1", "precision", "recall", "loss"}
    assert result.last is not None
    assert set(result.last.metrics) == {f"{split}/{name}" for split in ("matched", "mismatched") for name in names}
    assert result.last.metrics["matched/loss"] != result.last.metrics["mismatched/loss"]
    assert result.data["validation_examples"] == 96


def test_stsb_is_a_regression(tiny_preset: Path, tmp_path: Path) -> None:
    result = run_experiment(small("stsb", tiny_preset, tmp_path))
    assert result.last is not None
    assert set(result.last.metrics) == {"pearson", "spearman", "mse", "mae", "loss"}
    assert result.last.metrics["loss"] == pytest.approx(result.last.metrics["mse"])
    assert all(np.isfinite(value) for value in result.last.metrics.values())
    assert read_result(tmp_path) == result


def test_virtual_tokens_leave_room_and_are_started_from(tiny_preset: Path, tmp_path: Path) -> None:
    """Rows of up to 32 tokens, as many as there are positions, are cut to the 8 that 24 virtual ones leave."""
    data = DataConfig(offline=True, max_length=32)
    settings: dict[str, Any] = {"data": data, "training": TrainingConfig(epochs=1, max_steps=2)}
    first = run_experiment(small("mrpc", tiny_preset, tmp_path / "a", method=Prompt(tokens=24), **settings))
    assert first.parameters["trainable"] == 24 * 16 + 2 * 16 + 2
    adapter = str(tmp_path / "a" / "adapter")
    again = run_experiment(small("mrpc", tiny_preset, tmp_path / "b", method=None, adapter=adapter, **settings))
    assert (again.method, again.parameters) == ("prompt", first.parameters)
    with pytest.raises(ValueError, match="tokens must be at most 24, so that 8 of the 32 positions"):
        run_experiment(small("mrpc", tiny_preset, tmp_path / "c", method=Prompt(tokens=25), **settings))
    assert not (tmp_path / "c").exists()


def test_ax_is_predicted_with_an_adapter_of_mnli(mnli_run: Path, tiny_preset: Path, tmp_path: Path) -> None:
    config = small("ax", tiny_preset, tmp_path / "ax", method=None, adapter=str(mnli_run / "adapter"))
    result = run_experiment(config)
    assert (result.method, result.best, result.last) == ("bitfit", None, None)
    assert result.data == {"source": "sample", "train_examples": 0, "validation_examples": 0}
    assert set(result.timing) == set(read_result(mnli_run).timing)
    left = ["hardware.json", "predictions.tsv", "result.json"]
    assert sorted(path.name for path in (tmp_path / "ax").iterdir()) == left
    lines = (tmp_path / "ax" / "predictions.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == [str(number) for number in range(32)]
    assert {line.split("\t")[1] for line in lines[1:]} <= set(TASKS["ax"].labels)
    before = (tmp_path / "ax" / "predictions.tsv").read_bytes()
    with pytest.raises(ValueError, match=r"already holds a run \(result.json, predictions.tsv\)"):
        run_experiment(config)
    run_experiment(dataclasses.replace(config, overwrite=True))
    assert (tmp_path / "ax" / "predictions.tsv").read_bytes() == before


def test_the_model_ends_with_the_best_weights(
    tiny_preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three evaluations is made the best; the adapter holds what the model was then."""
    scores, seen = iter([0.1, 0.9, 0.5]), []

    def evaluate(model: Any, *_: Any) -> dict[str, float]:
        seen.append(np.array(model.get_layer("logits").bias.value))
        return {"accuracy": next(scores), "loss": 0.0}

    monkeypatch.setattr(experiment, "evaluate", evaluate)
    training = TrainingConfig(epochs=1, eval_steps=1, warmup=0)
    result = run_experiment(small("sst2", tiny_preset, tmp_path, training=training))
    assert result.best is not None
    assert result.last is not None
    assert (result.best.step, result.last.step) == (2, 3)
    assert [line["metrics"]["accuracy"] for line in history(tmp_path) if "metrics" in line] == [0.1, 0.9, 0.5]

    from safetensors.numpy import load_file

    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    bias = next(value for path, value in saved.items() if path.endswith(".classifier.bias"))
    np.testing.assert_array_equal(bias, seen[1])
    assert (seen[1] != seen[2]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": LoRA()}, "--method lora does not fit --adapter .*which holds bitfit"),
        (
            {"method": BitFit(terms=("query",))},
            r"the options of --adapter .* are BitFit\(train_head=True, terms=None\)",
        ),
        ({"adapter": "/no/such"}, "does not exist"),
    ],
)
def test_a_method_that_is_not_the_adapters(
    mnli_run: Path, tiny_preset: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_experiment(
            small("mnli", tiny_preset, tmp_path / "run", **{"adapter": str(mnli_run / "adapter"), **changes})
        )
    assert list(tmp_path.iterdir()) == []

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from kpeft import defaults
from kpeft.config import DataConfig, Distillation, MaskedText, RunConfig, TrainingConfig
from kpeft.glue.tasks import TASKS
from kpeft.listing import TRAINABLE
from kpeft.methods import METHODS, BitFit, LoRA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1. Received: 0"),
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"gradient_accumulation": 0}, "gradient-accumulation must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"max_steps": 0}, "max-steps must be at least 1"),
        ({"eval_steps": -1}, "eval-steps must be at least 1. Received: -1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"save_steps": 0}, "save-steps must be at least 1"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"weight_decay": -0.1}, "weight-decay must be 0 or more"),
        ({"weight_decay": math.inf}, "weight-decay must be 0 or more"),
        ({"learning_rate": 0.0}, "learning-rate must be above 0"),
        ({"learning_rate": math.nan}, "learning-rate must be above 0. Received: nan"),
        ({"adam_epsilon": 0.0}, "adam-epsilon must be above 0"),
        ({"clip_norm": 0.0}, "clip-norm must be above 0"),
        ({"clip_norm": math.inf}, "clip-norm must be above 0"),
        ({"warmup": -1.0}, "warmup must be 0 or more"),
        ({"warmup": math.inf}, "warmup must be 0 or more"),
        ({"warmup": 2.5}, "warmup must be below 1 or whole"),
        ({"schedule": "step"}, "schedule must be one of linear, constant, cosine. Received: 'step'"),
    ],
)
def test_training_values_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changes)


@pytest.mark.parametrize("warmup", [0, 0.06, 0.99, 1, 50.0])
def test_warmup_is_a_share_or_steps(warmup: float) -> None:
    assert TrainingConfig(warmup=warmup, clip_norm=None).warmup == warmup


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 7}, "max-length must be at least 8. Received: 7"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"data_dir": "a", "tfds_dir": "b"}, "data-dir must be left out where tfds-dir is given"),
    ],
)
def test_data_values_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "mprc"}, "Did you mean 'mrpc'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16. Received: 'float16'"),
        ({"method": None}, "a run needs a --method, or an --adapter"),
        ({"task": "ax"}, "task ax has no training rows: give the adapter"),
        ({"task": "ax", "adapter": "a", "resume": True}, "only predicted, which --resume does not go with"),
        (
            {"task": "ax", "adapter": "a", "data": DataConfig(holdout=0.1)},
            "only predicted, which --holdout does not go",
        ),
        ({"task": "ax", "adapter": "a", "data": DataConfig(split="test")}, "only predicted, which --split does not go"),
        ({"task": "ax", "adapter": "a", "masked_text": MaskedText(text="t")}, "only predicted, which --text does not"),
        ({"task": "ax", "adapter": "a", "distillation": Distillation(teacher="t")}, "which --teacher does not go"),
        ({"overwrite": True, "resume": True}, "exclude each other"),
        (
            {"data": DataConfig(offline=True), "preset": "minilm", "distillation": Distillation(teacher="hf://a/b")},
            "teacher must be a folder or a file with --offline. Received: 'hf://a/b'",
        ),
        ({"data": DataConfig(offline=True)}, "preset must be minilm or a folder with --offline. Received: 'bert_base"),
        ({"data": DataConfig(offline=True), "preset": "hf://a/b"}, "must be minilm or a folder"),
    ],
)
def test_a_run_is_checked_across_fields(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**{"task": "mrpc", "method": LoRA(), "output_dir": "x", **changes})


def test_offline_takes_what_is_on_this_machine(tmp_path: Path) -> None:
    for preset in ("minilm", str(tmp_path)):
        config = RunConfig(task="mrpc", method=LoRA(), output_dir="x", preset=preset, data=DataConfig(offline=True))
        assert config.preset == preset


def test_json_holds_every_option_but_where_the_run_lies() -> None:
    config = RunConfig(task="mrpc", method=BitFit(terms=("query",)), output_dir="x", resume=True)
    value = json.loads(json.dumps(config.to_json()))
    names = {field.name for field in dataclasses.fields(RunConfig)}
    assert set(value) == names - {"output_dir", "overwrite", "resume"}
    assert value["method"] == {"name": "bitfit", "terms": ["query"], "train_head": True}
    assert set(value["training"]) == {field.name for field in dataclasses.fields(TrainingConfig)}
    assert RunConfig(task="mrpc", method=None, adapter="a", output_dir="x").to_json()["method"] is None


def test_configurations_are_frozen() -> None:
    for config in (TrainingConfig(), DataConfig(), RunConfig(task="mrpc", method=LoRA(), output_dir="x")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.seed = 1  # type: ignore[misc, union-attr]


def test_every_method_has_its_defaults_and_counts() -> None:
    assert list(TRAINABLE) == list(METHODS)
    assert set(defaults.LEARNING_RATES) == set(METHODS)
    for task in TASKS:
        assert defaults.epochs(task) >= 1
        for method in METHODS:
            assert 0 < defaults.learning_rate(task, method) <= 3e-2
    assert defaults.learning_rate("mrpc", "lora") == 1e-3
    assert defaults.learning_rate("sst2", "lora") == 5e-4
    for default in (*defaults.LEARNING_RATES.values(), *defaults.EPOCHS.values()):
        assert default.source

"""Training above a frozen part: the same as training the whole model with the frozen part's dropout off."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import psutil
import pytest

import kpeft
from kpeft.config import TrainingConfig
from kpeft.frontier import split
from kpeft.glue.tokens import EncodedRows
from kpeft.sites import random_states, variable_paths
from kpeft.training import StepCallback, TrainingResult, frozen, predict_logits, train, trained_part
from kpeft.training.features import FrozenPart, FrozenRows
from kpeft.training.timing import Timer
from tests.tiny import tiny_classifier
from tests.training.small_model import accuracy, make_rows

ROWS = make_rows(21, longest=8)
VALIDATION = make_rows(9, seed=1, longest=8)
CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01, clip_norm=1.0, seed=3)
HEAD, LORA = kpeft.HeadOnly(), kpeft.LoRA(rank=2, dropout=0.2, layers=(1,))


def adapted(method: kpeft.Method, **options: Any) -> kpeft.Adaptation:
    return kpeft.adapt(tiny_classifier("roberta", dropout=0.2, **options), method)


def run(adaptation: kpeft.Adaptation, model: Any, rows: Any, validation: Any, **changes: Any) -> TrainingResult:
    settings = {
        "config": CONFIG,
        "progress": False,
        "evaluate": lambda trained: accuracy(trained, validation),
        **changes,
    }
    return train(
        model,
        variable_paths(adaptation.model),
        rows,
        random_states=random_states(adaptation.model),
        task_loss="classification",
        score=lambda metrics: metrics["accuracy"],
        **settings,
    )


def run_above(adaptation: kpeft.Adaptation, **changes: Any) -> TrainingResult:
    config = changes.get("config", CONFIG)
    model, rows, validation = trained_part(adaptation.model, ROWS, {"": VALIDATION}, config)
    return run(adaptation, model, rows, validation[""], **changes)


def trained(adaptation: kpeft.Adaptation) -> dict[str, np.ndarray]:
    return {path: np.array(value) for path, value in adaptation.trained_variables().items()}


def assert_close(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for path in left:
        np.testing.assert_allclose(left[path], right[path], rtol=1e-4, atol=2e-6, err_msg=path)


def without_frozen_dropout(model: keras.Model, method: kpeft.Method) -> None:
    """Sets the rates of the frozen part to 0, layer by layer."""
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    for layer in backbone.layers:
        if layer.name == "transformer_layer_1" and method is LORA:
            continue
        for inner in layer._flatten_layers():
            if isinstance(inner, keras.layers.Dropout):
                inner.rate = 0.0
            if isinstance(inner, keras.layers.MultiHeadAttention):
                inner._dropout = 0.0


@pytest.mark.parametrize("method", [HEAD, LORA], ids=["head", "lora"])
def test_it_equals_training_without_dropout_in_the_frozen_part(method: kpeft.Method) -> None:
    reference = adapted(method)
    without_frozen_dropout(reference.model, method)
    start = trained(reference)
    bias = {"evaluate": lambda trained: {"accuracy": float(trained.get_layer("logits").bias.value[0])}}
    expected = run(reference, reference.model, ROWS, VALIDATION, **bias)
    kept = adapted(method)
    result = run_above(kept, **bias)
    assert_close(trained(kept), trained(reference))
    assert max(np.abs(trained(kept)[path] - start[path]).max() for path in start) > 1e-3
    assert expected.best_weights is not None
    assert result.best_weights is not None
    assert_close(dict(result.best_weights), dict(expected.best_weights))
    assert result.best is not None
    assert expected.best is not None
    assert result.best.step == expected.best.step


def test_what_does_not_fit_is_computed_anew_to_the_same_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept, anew = adapted(HEAD), adapted(HEAD)
    run_above(kept)
    assert not caplog.records
    needed = (len(ROWS) + len(VALIDATION)) * 16 * 4
    monkeypatch.setattr(psutil, "virtual_memory", lambda: mock.Mock(available=4 * needed - 1))
    with caplog.at_level(logging.WARNING, "kpeft"):
        run_above(anew)
    assert_close(trained(anew), trained(kept))
    assert [record.message.count("more than a quarter of the memory available here") for record in caplog.records] == [
        1
    ]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: mock.Mock(available=4 * needed))
    assert isinstance(trained_part(kept.model, ROWS, {"": VALIDATION}, CONFIG)[1], FrozenRows)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"memory.max": "700"}, 700),
        ("0::/job/step", {"job/memory.max": "700", "job/step/memory.max": "max"}, 700),
        ("0::/", {"memory.max": "max"}, 1000),
        ("0::/", {}, 1000),
        ("5:cpu:/\n3:hugetlb,memory:/docker/f00", {"memory/memory.limit_in_bytes": "700"}, 700),
        ("3:memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, 1000),
        (None, {"memory.max": "700"}, 1000),
    ],
    ids=["container", "job", "no limit", "no such file", "version 1", "version 1 without limit", "no control groups"],
)
def test_memory_for_use_is_what_is_available_or_a_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str | None, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: mock.Mock(available=1000))
    monkeypatch.setattr(frozen, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(frozen, "_GROUPS", tmp_path / "groups")
    if groups is not None:
        (tmp_path / "own").write_text(f"{groups}\n")
    for name, text in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert frozen.memory_for_use() == expected


def make_kept(method: kpeft.Method, rows: EncodedRows, **options: Any) -> tuple[keras.Model, FrozenRows]:
    model = adapted(method, **options).model
    parts = split(model)
    assert parts is not None
    return parts.lower, FrozenRows(rows, FrozenPart(parts))


def test_features_are_kept_without_padding_and_batched_at_any_width() -> None:
    rows = make_rows(70, seed=2, longest=20)
    lower, kept = make_kept(LORA, rows)
    indices = np.array([5, 69, 0, 5])
    lengths = rows.lengths[indices]
    direct = np.asarray(lower(rows.batch(indices, 20))["frozen_0"])
    for width in (int(lengths.max()), 20, 27):
        batch = kept.batch(indices, width, 6)
        tokens = rows.batch(indices, width, 6)
        np.testing.assert_array_equal(batch["padding_mask"], tokens["padding_mask"])
        assert batch.keys() == {"frozen_0", "padding_mask"}
        assert batch["frozen_0"].shape == (6, width, 16)
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(batch["frozen_0"][row, :length], direct[row, :length], rtol=1e-4, atol=1e-5)
            assert (batch["frozen_0"][row, length:] == 0).all()
        assert (batch["frozen_0"][4:] == 0).all()


@pytest.mark.parametrize(
    ("method", "dtype", "itemsize"), [(HEAD, "float32", 4), (LORA, "mixed_bfloat16", 2)], ids=["head", "lora"]
)
def test_memory_is_what_the_formula_says(method: kpeft.Method, dtype: str, itemsize: int) -> None:
    model = adapted(method, dtype=dtype).model
    parts = split(model)
    assert parts is not None
    frozen = FrozenPart(parts)
    number = len(ROWS) if method is HEAD else ROWS.lengths.sum()
    assert frozen.bytes_of(ROWS) == number * 16 * itemsize
    kept = FrozenRows(ROWS, frozen)
    kept.fill(Timer())
    assert sum(array.nbytes for array in kept._features.values()) == number * 16 * itemsize
    logits = predict_logits(parts.upper, kept, 8)
    np.testing.assert_allclose(logits, predict_logits(model, ROWS, 8), rtol=0.05, atol=0.05)


def test_each_row_passes_the_frozen_part_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[int] = []
    forward = FrozenPart.__call__

    def count(self: FrozenPart, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        passed.append(len(inputs["token_ids"]))
        return forward(self, inputs)

    monkeypatch.setattr(FrozenPart, "__call__", count)
    run_above(adapted(HEAD))
    assert passed == [64, 64]  # one batch of training rows and one of validation rows, filled up


def test_the_time_is_training_time_and_compilation_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    widths: set[int] = set()

    def compile_for(self: FrozenPart, inputs: dict[str, np.ndarray]) -> None:
        widths.add(inputs["token_ids"].shape[1])
        now[0] += 5.0

    def forward(self: FrozenPart, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        now[0] += 1.0
        return {"frozen_0": np.zeros((64, 16), np.float32)}

    monkeypatch.setattr(FrozenPart, "is_compiled", lambda self, inputs: inputs["token_ids"].shape[1] in widths)
    monkeypatch.setattr(FrozenPart, "compile", compile_for)
    monkeypatch.setattr(FrozenPart, "__call__", forward)
    _, kept = make_kept(HEAD, make_rows(300, seed=2, longest=20))
    timer = Timer(lambda: now[0])
    timer.switch("evaluate")
    kept.fill(timer)
    now[0] += 7.0
    timing = timer.read()
    assert 1 < len(widths) < 5
    assert (timing.compile_seconds, timing.train_seconds) == (5.0 * len(widths), 5.0)
    assert (timing.evaluate_seconds, timing.train_rows) == (7.0, 0)


def test_one_epoch_keeps_nothing_and_a_trained_first_layer_changes_nothing() -> None:
    head = adapted(HEAD).model
    for config in (TrainingConfig(epochs=1), TrainingConfig(epochs=9, batch_size=8, max_steps=3)):
        model, rows, validation = trained_part(head, ROWS, {"": VALIDATION}, config)
        assert model is not head
        assert (rows, validation) == (ROWS, {"": VALIDATION})
        assert [v.path for v in model.trainable_variables] == [v.path for v in head.trainable_variables]
    whole = adapted(kpeft.BitFit()).model
    model, rows, validation = trained_part(whole, ROWS, {"": VALIDATION}, CONFIG)
    assert model is whole
    assert rows is ROWS
    assert validation == {"": VALIDATION}


class _Crash(StepCallback):
    def on_step_end(self, state: Any) -> None:
        if state.step == 4:
            raise KeyboardInterrupt


def test_a_resumed_run_and_its_adapter_end_as_an_uninterrupted_one(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01, save_steps=2)
    whole, parts = adapted(LORA), adapted(LORA)
    run_above(whole, config=config, output_dir=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_above(parts, config=config, output_dir=tmp_path / "parts", callbacks=[_Crash()])
    resumed = adapted(LORA)
    run_above(resumed, config=config, output_dir=tmp_path / "parts", resume=True)
    histories = [(tmp_path / name / "history.jsonl").read_bytes() for name in ("whole", "parts")]
    assert histories[0] == histories[1]
    for name, adaptation in (("one", whole), ("other", resumed)):
        kpeft.save_adapter(adaptation, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    fresh = tiny_classifier("roberta", dropout=0.2)
    kpeft.load_adapter(fresh, tmp_path / "one")
    np.testing.assert_array_equal(predict_logits(fresh, ROWS, 8), predict_logits(whole.model, ROWS, 8))


def test_kept_features_and_computed_ones_do_not_go_on_from_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They agree up to rounding only."""
    run_above(adapted(HEAD), output_dir=tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: mock.Mock(available=0))
    with pytest.raises(ValueError, match=r"frozen_outputs_kept was True\. Received: frozen_outputs_kept=False"):
        run_above(adapted(HEAD), output_dir=tmp_path, resume=True)


def test_a_table_that_both_parts_share_is_there_when_validation_rows_are_computed() -> None:
    """DeBERTa's relative positions: while Keras predicts with the upper part, its variables hold no values."""
    adaptation = kpeft.adapt(tiny_classifier("deberta_v3"), kpeft.LoRA(rank=2, layers=(1,)))
    model, _, validation = trained_part(adaptation.model, ROWS, {"": VALIDATION}, CONFIG)
    expected = predict_logits(adaptation.model, VALIDATION, 8)
    np.testing.assert_allclose(predict_logits(model, validation[""], 8), expected, rtol=1e-4, atol=1e-5)

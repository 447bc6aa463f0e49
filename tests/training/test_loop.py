from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest

from kpeft.config import TrainingConfig
from kpeft.training import FitState, NonFiniteLossError, StepCallback, predict_logits
from kpeft.training.batches import padded_batch
from kpeft.training.widths import choose_widths
from tests.training.small_model import accuracy, make_model, make_rows, run, weights_of

ROWS = make_rows(53, longest=8)
CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01, seed=7)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_learns_and_reports(tmp_path: Path) -> None:
    rows = make_rows(96, longest=8)
    config = TrainingConfig(epochs=10, batch_size=16, learning_rate=0.03)
    model = make_model()
    before = accuracy(model, rows)["accuracy"]
    result = run(model, rows, config, output_dir=tmp_path)
    assert result.best is not None
    assert result.last is not None
    assert result.best.metrics["accuracy"] > max(0.85, before)
    assert (result.steps, result.epochs, result.last.step, result.last.epoch) == (60, 10.0, 60, 10.0)
    assert not result.interrupted
    lines = history(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 61))
    assert [line["epoch"] for line in lines if "metrics" in line] == list(range(1, 11))
    compiling = 16 * len(choose_widths(rows.lengths))  # the first step of each width
    assert result.timing.train_rows == 60 * 16 - compiling
    assert result.timing.train_examples_per_second > 0
    assert result.timing.compile_seconds > 0


def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path: Path) -> None:
    outcomes: list[tuple[dict[str, np.ndarray], list[dict[str, Any]]]] = []
    for name in ("one", "other"):
        model = make_model(dropout=0.3)
        # What happened before in the process, and to the model's generators, must not matter.
        keras.utils.set_random_seed(len(outcomes))
        run(model, ROWS, CONFIG, output_dir=tmp_path / name)
        outcomes.append((weights_of(model), history(tmp_path / name)))
    assert outcomes[0][1] == outcomes[1][1]
    for path, weight in outcomes[0][0].items():
        np.testing.assert_array_equal(weight, outcomes[1][0][path], err_msg=path)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    model = make_model(dropout=0.3)
    run(model, ROWS, CONFIG, output_dir=tmp_path / "one")
    other = make_model(dropout=0.3)
    run(other, ROWS, TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01, seed=8), output_dir=tmp_path / "other")
    assert history(tmp_path / "one") != history(tmp_path / "other")


@pytest.mark.parametrize("regression", [False, True])
def test_micro_batches_equal_one_large_batch(tmp_path: Path, regression: bool) -> None:
    """53 rows as 7 micro-batches of 8 in 2 steps (32 and 21 rows), and as 2 batches of 32: one trajectory."""
    rows = make_rows(53, longest=8, regression=regression)
    task = {"task_loss": "regression"} if regression else {}
    weights = []
    for name, batch_size, accumulation in (("small", 8, 4), ("large", 32, 1)):
        model = make_model(num_classes=1 if regression else 2)
        config = TrainingConfig(
            epochs=2, batch_size=batch_size, gradient_accumulation=accumulation, learning_rate=0.01, clip_norm=0.1
        )
        result = run(model, rows, config, shuffle=False, output_dir=tmp_path / name, **task)
        assert result.steps == 4
        weights.append(weights_of(model))
    losses = [[line["loss"] for line in history(tmp_path / name) if "loss" in line] for name in ("small", "large")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-6)
    for path, weight in weights[0].items():
        np.testing.assert_allclose(weight, weights[1][path], rtol=1e-4, atol=2e-6, err_msg=path)
    # The first loss is the mean over the step's 32 real rows at the starting weights, computed apart.
    logits = np.asarray(
        make_model(num_classes=1 if regression else 2)(padded_batch(rows, np.arange(32), 8, 32)), "float64"
    )
    labels = rows.labels[:32]
    if regression:
        expected = np.mean((logits[:, 0] - labels) ** 2)
    else:
        expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(32), labels.astype(int)])
    assert losses[0][0] == pytest.approx(expected, rel=2e-6)


def test_padding_to_another_length_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (8, 24):
        monkeypatch.setattr("kpeft.training.batches.choose_widths", lambda lengths, width=width: (width,))
        run(make_model(), ROWS, CONFIG, output_dir=tmp_path / str(width), evaluate=lambda model: {"accuracy": 0.5})
    narrow, wide = ([line["loss"] for line in history(tmp_path / name) if "loss" in line] for name in ("8", "24"))
    np.testing.assert_allclose(narrow, wide, rtol=2e-6)


def test_max_steps_ends_within_an_epoch() -> None:
    config = TrainingConfig(epochs=5, batch_size=8, max_steps=9, eval_steps=4)
    result = run(make_model(), ROWS, config)
    assert (result.steps, result.epochs) == (9, 9 / 7)
    assert result.last is not None
    assert result.last.step == 9


@pytest.mark.parametrize(("eval_steps", "expected"), [(None, [7, 14]), (5, [5, 10, 14]), (7, [7, 14]), (100, [14])])
def test_evaluates_when_due_and_after_the_last_step(
    eval_steps: int | None, expected: list[int], tmp_path: Path
) -> None:
    config = TrainingConfig(epochs=2, batch_size=8, eval_steps=eval_steps)
    run(make_model(), ROWS, config, output_dir=tmp_path, evaluate=lambda model: {"accuracy": 0.5})
    assert [line["step"] for line in history(tmp_path) if "metrics" in line] == expected


def test_the_best_is_the_earliest_of_equals_and_keeps_its_weights() -> None:
    scores = iter([0.1, 0.7, 0.7, 0.6])
    model = make_model()
    seen: list[dict[str, np.ndarray]] = []

    def evaluate(trained: keras.Model) -> dict[str, float]:
        seen.append({path: weight.copy() for path, weight in weights_of(trained).items()})
        return {"accuracy": next(scores)}

    result = run(model, ROWS, TrainingConfig(epochs=4, batch_size=8), evaluate=evaluate)
    assert result.best is not None
    assert result.best_weights is not None
    assert (result.best.step, result.best.metrics) == (14, {"accuracy": 0.7})
    for path, weight in result.best_weights.items():
        np.testing.assert_array_equal(weight, seen[1][path], err_msg=path)
    assert any((weight != seen[3][path]).any() for path, weight in result.best_weights.items())
    for path, weight in weights_of(model).items():
        np.testing.assert_array_equal(weight, seen[3][path], err_msg=path)


def test_patience_counts_evaluations_without_a_better_score() -> None:
    scores = iter([0.5, 0.6, 0.6, 0.1, 0.9])
    config = TrainingConfig(epochs=5, batch_size=8, patience=2)
    result = run(make_model(), ROWS, config, evaluate=lambda model: {"accuracy": next(scores)})
    assert result.best is not None
    assert (result.steps, result.best.step) == (28, 14)
    assert not result.interrupted


def test_only_what_is_trainable_moves() -> None:
    model = make_model()
    model.get_layer("embeddings").trainable = False
    before = {path: weight.copy() for path, weight in weights_of(model).items()}
    result = run(model, ROWS, TrainingConfig(epochs=1, batch_size=8, warmup=0, learning_rate=0.1))
    moved = {path for path, weight in weights_of(model).items() if (weight != before[path]).any()}
    assert moved == set(before) - {"embeddings/embeddings"}
    assert result.best_weights is not None
    assert set(result.best_weights) == moved


class _Poison(StepCallback):
    """Puts a NaN into the weights after some step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, state: FitState) -> None:
        if state.step == self._step:
            state.sync()
            bias = state.model.get_layer("logits").bias
            bias.assign(bias + np.nan)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_nan_stops_the_run_and_names_the_step(accumulation: int, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=30, batch_size=8, save_steps=2, gradient_accumulation=accumulation)
    with pytest.raises(NonFiniteLossError, match="step 4 is nan") as error:
        run(make_model(), ROWS, config, callbacks=[_Poison(3)], output_dir=tmp_path)
    assert error.value.step == 4
    assert [line["step"] for line in history(tmp_path)][-1] == 3
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_nothing_to_train_on_or_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="0 training rows"):
        run(make_model(), ROWS.take(np.arange(0)), CONFIG)
    model = make_model()
    model.trainable = False
    with pytest.raises(ValueError, match="nothing to train"):
        run(model, ROWS, CONFIG)


@pytest.mark.parametrize("batch_size", [16, 64])
def test_logits_of_a_whole_split_do_not_depend_on_batches(batch_size: int) -> None:
    rows = make_rows(53, longest=30)
    model = make_model()
    logits = predict_logits(model, rows, batch_size)
    assert logits.dtype == np.float32
    for row in (0, 17, 52):
        alone = model(rows.batch(np.array([row]), int(rows.lengths[row])))
        np.testing.assert_allclose(logits[row], np.asarray(alone)[0], rtol=1e-5, atol=1e-6)


def test_a_second_evaluation_compiles_nothing() -> None:
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **keywords: str | int) -> None:
        if "backend_compile" in event:
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    model, counts = make_model(), []

    def evaluate(trained: keras.Model) -> dict[str, float]:
        scores = accuracy(trained, ROWS)
        counts.append(len(compilations))
        return scores

    try:
        run(model, ROWS, TrainingConfig(epochs=4, batch_size=8), evaluate=evaluate)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 0
    # From the end of the first evaluation to that of the last, neither steps nor evaluations compile. What comes after
    # is not counted: Keras's sum of its metrics, which compiles the first time in a process.
    assert counts == [counts[0]] * 4

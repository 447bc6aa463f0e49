from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpeft.config import TrainingConfig
from kpeft.ops import NUMERICS
from kpeft.training import FitState, StepCallback, TrainingResult
from kpeft.training.callbacks import Evaluation, Evaluations, Interruption
from kpeft.training.checkpoint import Checkpoint, check_identity, load_checkpoint, save_checkpoint
from tests.training.small_model import make_model, make_rows, run, weights_of

# All of one padded length: one shape to compile.
ROWS = make_rows(53, longest=8)


class _Crash(StepCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, state: FitState) -> None:
        if state.step == self._step:
            raise KeyboardInterrupt


class _Signal(StepCallback):
    """Sends SIGINT to this process once."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self._step, self._number = step, number

    def on_step_end(self, state: FitState) -> None:
        if state.step == self._step:
            os.kill(os.getpid(), self._number)


def train_once(folder: Path, config: TrainingConfig, **changes: Any) -> tuple[TrainingResult, dict[str, np.ndarray]]:
    model = make_model(dropout=0.3)
    result = run(model, ROWS, config, output_dir=folder, **changes)
    return result, weights_of(model)


def assert_same(
    left: tuple[TrainingResult, dict[str, np.ndarray]], right: tuple[TrainingResult, dict[str, np.ndarray]]
) -> None:
    for name in ("best", "last", "steps", "epochs"):
        assert getattr(left[0], name) == getattr(right[0], name), name
    best = (left[0].best_weights, right[0].best_weights)
    for one, other in [(left[1], right[1]), best]:
        assert one is not None
        assert other is not None
        assert one.keys() == other.keys()
        for path in one:
            np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.mark.parametrize(("accumulation", "crash", "saved"), [(1, 12, 10), (3, 5, 5)])
def test_a_resumed_run_ends_as_an_uninterrupted_one_to_the_bit(
    tmp_path: Path, accumulation: int, crash: int, saved: int
) -> None:
    """The crash leaves history lines after the checkpoint, in the middle of an epoch."""
    config = TrainingConfig(
        epochs=3,
        batch_size=8,
        gradient_accumulation=accumulation,
        learning_rate=0.01,
        save_steps=5,
        eval_steps=2,
        keep=2,
    )
    whole = train_once(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train_once(tmp_path / "parts", config, callbacks=[_Crash(crash + 1 if accumulation == 1 else 6)])
    assert load_checkpoint(tmp_path / "parts" / "checkpoints").step == saved
    resumed = train_once(tmp_path / "parts", config, resume=True)
    assert_same(resumed, whole)
    histories = [(tmp_path / name / "history.jsonl").read_bytes() for name in ("whole", "parts")]
    assert histories[0] == histories[1]
    # Times are of both processes, but for what came after the checkpoint.
    timing = load_checkpoint(tmp_path / "parts" / "checkpoints").timing
    assert timing is not None
    assert 0.8 * whole[0].timing.train_rows < timing.train_rows <= 3 * 53
    assert timing.earlier_seconds > resumed[0].timing.earlier_seconds > 0 == whole[0].timing.earlier_seconds
    # A finished run that is resumed has nothing left to do.
    assert_same((train_once(tmp_path / "parts", config, resume=True)[0], resumed[1]), whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_what_is_done_and_goes_on(tmp_path: Path, number: int) -> None:
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.01)
    whole = train_once(tmp_path / "whole", config)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    result, _ = train_once(tmp_path / "parts", config, callbacks=[_Signal(9, number)])
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert result.interrupted
    assert result.steps == 9
    assert result.last is not None
    assert result.last.step == 7
    resumed = train_once(tmp_path / "parts", config, resume=True)
    assert not resumed[0].interrupted
    assert_same(resumed, whole)


def test_interrupted_before_the_first_evaluation(tmp_path: Path) -> None:
    result, _ = train_once(tmp_path, TrainingConfig(epochs=2, batch_size=8), callbacks=[_Signal(2)])
    assert (result.interrupted, result.best, result.last, result.best_weights) == (True, None, None, None)
    assert load_checkpoint(tmp_path / "checkpoints").step == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """After the first, both signals are the system's again, which ends a program wherever it is."""
    interruption = Interruption()
    with interruption.watch():
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "once more ends at once" in capsys.readouterr().err


def test_a_run_out_of_patience_stays_ended(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=5, batch_size=8, patience=1)
    first, _ = train_once(tmp_path, config, evaluate=lambda model: {"accuracy": 0.5})
    again, _ = train_once(tmp_path, config, evaluate=lambda model: {"accuracy": 0.5}, resume=True)
    assert first.steps == again.steps == 14


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "learning_rate"),
        ({"epochs": 4}, "epochs"),
        ({"keep": 3}, "keep"),
    ],
)
def test_a_resumed_run_must_be_set_up_alike(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 32, "learning_rate": 0.01}
    train_once(tmp_path, TrainingConfig(**settings))
    with pytest.raises(ValueError, match=rf"training\.{named} was .* Received: {named}="):
        train_once(tmp_path, TrainingConfig(**{**settings, **changes}), resume=True)


def test_other_rows_or_another_method_cannot_be_resumed(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=32)
    evaluate = {"evaluate": lambda model: {"accuracy": 0.5}}
    run(make_model(), ROWS, config, output_dir=tmp_path, identity={"method": {"rank": 8}}, **evaluate)
    with pytest.raises(ValueError, match="train_rows was"):
        run(make_model(), make_rows(53, seed=1, longest=8), config, output_dir=tmp_path, resume=True,
            identity={"method": {"rank": 8}}, **evaluate)  # fmt: skip
    with pytest.raises(ValueError, match=r"method\.rank was 8\. Received: rank=4"):
        run(make_model(), ROWS, config, output_dir=tmp_path, resume=True, identity={"method": {"rank": 4}}, **evaluate)


@pytest.mark.parametrize("written", [0, None])
def test_a_checkpoint_of_other_arithmetic_cannot_be_resumed(tmp_path: Path, written: int | None) -> None:
    """`None`: from before the arithmetic had a version."""
    config = TrainingConfig(epochs=1, batch_size=32)
    train_once(tmp_path, config)
    (record,) = (tmp_path / "checkpoints").glob("*/state.json")
    saved = json.loads(record.read_text())
    assert saved["identity"].pop("numerics") == NUMERICS
    if written is not None:
        saved["identity"]["numerics"] = written
    record.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=rf"numerics {written}\): go on with that kpeft, .*numerics={NUMERICS}"):
        train_once(tmp_path, config, resume=True)


def test_nothing_to_resume(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=32)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        train_once(tmp_path, config, resume=True)
    with pytest.raises(ValueError, match="output_dir=None"):
        run(make_model(), ROWS, config, resume=True)


def make_checkpoint(step: int) -> Checkpoint:
    evaluation = Evaluation(step=step, epoch=0.5, metrics={"accuracy": 0.25})
    weights = {"dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return Checkpoint(
        step=step,
        identity={"training": {"seed": 0}},
        arrays={"random/dropout": np.array([1, 2], np.uint32), "optimizer/0": np.array(step, np.int32)},
        evaluations=Evaluations(best=evaluation, last=evaluation, since_best=1, best_weights=weights),
        history_length=17,
    )


def test_checkpoints_round_trip_and_the_oldest_go(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        save_checkpoint(make_checkpoint(step), tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]
    loaded, expected = load_checkpoint(tmp_path), make_checkpoint(100)
    assert (loaded.step, loaded.identity, loaded.history_length) == (100, expected.identity, 17)
    assert (loaded.evaluations.best, loaded.evaluations.since_best) == (expected.evaluations.best, 1)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert loaded.arrays[name].dtype == array.dtype
    assert loaded.evaluations.best_weights is not None
    np.testing.assert_array_equal(
        loaded.evaluations.best_weights["dense/kernel"], np.arange(6, dtype=np.float32).reshape(2, 3)
    )


def test_a_crash_while_saving_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(make_checkpoint(1), tmp_path, keep=1)

    def full_disk(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(make_checkpoint(2), tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path).step == 1
    # A power cut leaves the unfinished folder: it is neither loaded nor in the way.
    (tmp_path / "step-00000003.tmp").mkdir()
    assert load_checkpoint(tmp_path).step == 1


@pytest.mark.parametrize("file", ["state.safetensors", "best.safetensors", "state.json"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, file: str) -> None:
    save_checkpoint(make_checkpoint(1), tmp_path, keep=1)
    (tmp_path / "step-00000001" / file).write_bytes(b"{")
    with pytest.raises(ValueError, match="step-00000001 cannot be resumed from"):
        load_checkpoint(tmp_path)


def test_history_that_was_cut_is_an_error(tmp_path: Path) -> None:
    config = TrainingConfig(epochs=1, batch_size=32)
    train_once(tmp_path, config)
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(ValueError, match="lacks lines"):
        train_once(tmp_path, config, resume=True)


def test_a_fresh_run_clears_older_checkpoints(tmp_path: Path) -> None:
    train_once(tmp_path, TrainingConfig(epochs=3, batch_size=32))
    train_once(tmp_path, TrainingConfig(epochs=1, batch_size=32))
    assert load_checkpoint(tmp_path / "checkpoints").step == 2


def test_identity_takes_tuples_for_lists() -> None:
    same = {"method": {"targets": ("query", "value")}, "seed": 0}
    check_identity(json.loads(json.dumps(same)), same)
    with pytest.raises(ValueError, match="new was None"):
        check_identity(same, {**same, "new": 1})

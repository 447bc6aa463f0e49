from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_folders import HARDWARE, MRPC, write_run

from kpeft.report.collect import collect


def change(folder: Path, **fields: Any) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_runs_are_found_at_any_depth_with_what_they_left(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "deep" / "run", seed=3, hardware=HARDWARE)
    write_run(tmp_path / "b")
    found = collect(tmp_path)
    assert (found.name, found.notes) == (tmp_path.name, ())
    assert [run.folder for run in found.runs] == ["a/deep/run", "b"]
    run = found.runs[0]
    assert (run.result.seed, run.hardware, run.at_once) == (3, HARDWARE, False)
    assert run.losses == ((1, 0.7), (2, 0.6), (3, 0.5), (4, 0.4))
    assert run.evaluations == ((2, MRPC), (4, MRPC))
    assert found.runs[1].hardware is None


def test_the_folder_may_be_a_run_itself(tmp_path: Path) -> None:
    write_run(tmp_path)
    assert [run.folder for run in collect(tmp_path).runs] == ["."]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 2}, "no result of schema 1"),
        ({"task": "glue"}, "Unknown GLUE task"),
        ({"seed": "0"}, "seed must be"),
        ({"method": None}, "method, preset"),
        ({"task": []}, "task, method"),
        ({"config": {}}, "config.method is missing"),
        ({"config": []}, "config must be an object"),
        ({"parameters": {"trainable": 3}}, "parameters must count"),
        ({"parameters": {"trainable": 0, "total": 0}}, "parameters must count"),
        ({"versions": None}, "versions must be an object"),
        ({"timing": 3}, "timing must be an object"),
        ({"last": {"step": 1, "epoch": 1.0, "metrics": [1]}}, "last must have a step and metrics"),
        ({"last": {"step": 1}}, "no result of schema 1"),
    ],
)
def test_a_bad_result_is_left_out_and_the_others_are_shown(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    write_run(tmp_path / "good")
    change(write_run(tmp_path / "bad"), **fields)
    found = collect(tmp_path)
    assert [run.folder for run in found.runs] == ["good"]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("bad: left out. ")
    assert reason in found.notes[0]


@pytest.mark.parametrize("content", ["", '{"schema": 1, "task"', "[" * 100_000, "\x00"])
def test_a_half_written_result_is_left_out(tmp_path: Path, content: str) -> None:
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad") / "result.json").write_text(content)
    found = collect(tmp_path)
    assert [run.folder for run in found.runs] == ["good"]
    assert found.notes[0].startswith("bad: left out.")


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    write_run(tmp_path)
    score = {"step": 4, "epoch": 1.0, "metrics": {**MRPC, "accuracy": float("nan"), "f1": "high"}}
    change(tmp_path, last=score, timing={"train_seconds": float("inf"), "total_seconds": 3.0})
    found = collect(tmp_path)
    result = found.runs[0].result
    assert result.last is not None
    assert set(result.last.metrics) == {"precision", "recall", "loss"}
    assert result.timing == {"total_seconds": 3.0}
    assert found.notes == (
        ".: last without what is no finite number: accuracy is nan, f1 is 'high'.",
        ".: timing without what is no finite number: train_seconds is inf.",
    )


def test_what_is_whole_in_a_history_is_kept(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "history.jsonl"
    bad = ['{"step": 5, "loss": NaN}', "[]", '{"step": 6, "metrics": {"loss": Infinity, "f1": 0.5}}', '{"step": 7, "lo']
    path.write_text(path.read_text() + "\n".join(bad))
    found = collect(tmp_path)
    assert [step for step, _ in found.runs[0].losses] == [1, 2, 3, 4]
    assert found.runs[0].evaluations[-1] == (6, {"f1": 0.5})
    assert found.notes == (".: history.jsonl is damaged in line 7 and 3 more; the rest is shown.",)


def test_runs_without_curves_or_results_are_noted(tmp_path: Path) -> None:
    (write_run(tmp_path / "a") / "history.jsonl").unlink()
    (write_run(tmp_path / "b") / "result.json").unlink()
    (write_run(tmp_path / "c") / "hardware.json").write_text("{")
    found = collect(tmp_path)
    assert [run.folder for run in found.runs] == ["a", "c"]
    assert [note.partition(",")[0] for note in found.notes[:2]] == ["a: no curves", "b: left out"]
    assert "c: hardware.json cannot be read" in found.notes[2]


def test_runs_at_once_say_how_they_ended(tmp_path: Path) -> None:
    write_run(tmp_path / "top" / "seed=0")
    (write_run(tmp_path / "top" / "seed=1") / "result.json").unlink()
    (write_run(tmp_path / "top" / "seed=2") / "result.json").unlink()
    ends = [("finished", None), ("failed", "The loss of step 3 is nan."), ("interrupted", None)]
    runs = [{"folder": f"seed={n}", "status": status, "error": error} for n, (status, error) in enumerate(ends)]
    (tmp_path / "top" / "runs.json").write_text(json.dumps({"schema": 1, "runs": runs}))
    (tmp_path / "runs.json").write_text('{"schema": 1, "runs": [{"fo')
    found = collect(tmp_path)
    assert [(run.folder, run.at_once) for run in found.runs] == [("top/seed=0", True)]
    assert found.notes == (
        "runs.json is no list of runs, or a half-written one.",
        "top/seed=1: left out, it failed: The loss of step 3 is nan.",
        "top/seed=2: left out, it was interrupted.",
    )
    write_run(tmp_path / "top" / "seed=2")  # made singly since
    assert [run.at_once for run in collect(tmp_path).runs] == [True, False]

from __future__ import annotations

import json
from pathlib import Path

import keras
import pytest

from kpeft.experiment import clear_output
from kpeft.results import RunResult, Score, installed_versions, listed_folders, read_result

RESULT = RunResult(
    task="mnli",
    method="lora",
    preset="minilm",
    seed=3,
    config={"task": "mnli"},
    parameters={"trainable": 1, "total": 2},
    data={"source": "tsv", "train_examples": 3, "validation_examples": 4},
    best=Score(step=1, epoch=0.5, metrics={"matched/accuracy": 0.25, "mismatched/accuracy": 0.5}),
    last=None,
    timing={"total_seconds": 1.5},
)


def test_round_trip(tmp_path: Path) -> None:
    RESULT.write(tmp_path / "deep" / "folder")
    assert read_result(tmp_path / "deep" / "folder") == RESULT
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["result.json"]


def test_versions() -> None:
    versions = installed_versions()
    assert set(versions) == {"kpeft", "keras", "jax"}
    assert versions["keras"] == keras.__version__


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "no result of schema 1"),
        ('{"schema": 2}', "no result of schema 1"),
        ('{"schema": 1, "task": "mrpc"}', "no result of schema 1"),
        ('{"schema": 1, "best": {"step": 1}}', "no result of schema 1"),
    ],
)
def test_what_is_no_result_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match=rf"result\.json.*{message}"):
        read_result(tmp_path)


def test_a_failed_write_leaves_the_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RESULT.write(tmp_path)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full_disk)
        with pytest.raises(OSError, match="No space left"):
            RESULT.write(tmp_path)
    assert read_result(tmp_path) == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text())["schema"] == 1


def test_clearing_takes_the_listed_runs_along_and_stays_inside_the_folder(tmp_path: Path) -> None:
    top = tmp_path / "top"
    runs = ["seed=0", "deep/seed=1", "seed=2", "unlisted", "../outside", "../link"]
    for run in runs:
        RESULT.write(top / run)
        RESULT.write(top / run / "adapter")
    (top / "seed=2" / "notes.txt").write_text("mine")
    (top / "linked").symlink_to(tmp_path / "link")
    listed = ["seed=0", "./seed=0", "deep/seed=1", "seed=2", "gone", "linked", ".", "..", "../outside", str(tmp_path)]
    (top / "runs.json").write_text(json.dumps({"schema": 1, "runs": [{"folder": each} for each in listed]}))
    clear_output(top)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        f"{run}/{name}"
        for run in ("top/unlisted", "outside", "link")
        for name in ("result.json", "adapter/result.json")
    }
    assert left == {"top/seed=2/notes.txt", *kept}
    assert sorted(path.name for path in top.iterdir()) == ["deep", "linked", "seed=2", "unlisted"]
    clear_output(top)  # nothing is listed, nothing is there


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"schema": 2, "runs": []}', '{"schema": 1}', '{"schema": 1, "runs": [{"folder": 3}]}']
)
def test_a_damaged_list_of_runs_is_named_and_nothing_is_cleared(tmp_path: Path, content: str) -> None:
    RESULT.write(tmp_path)
    (tmp_path / "runs.json").write_text(content)
    with pytest.raises(ValueError, match=r"runs\.json is no list of runs of schema 1: remove it"):
        listed_folders(tmp_path)
    with pytest.raises(ValueError, match=r"runs\.json"):
        clear_output(tmp_path)
    assert read_result(tmp_path) == RESULT

"""Bad input and bad luck on the command line: one clear line, the right exit status, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Outcome, Run, assert_refused, contents, history, result
from safetensors import SafetensorError

from kpeft import experiment, run
from kpeft.backbones import kerashub
from kpeft.training import checkpoint
from kpeft.training.callbacks import History, Progress

# Bad input.


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--task mprc", "Did you mean 'mrpc'? Known: cola, sst2"),
        ("--method lroa", "unknown method 'lroa'. Did you mean 'lora'? Known: full, head"),
        ("--rnak 4", "unknown argument '--rnak'. Did you mean '--rank'? --help"),
        ("surplus", "unknown argument 'surplus'. --help"),
        ("--terms query", "--terms does not belong to method lora, whose flags are --train-head, --rank"),
        ("--rank 0", "rank must be at least 1. Received: rank=0"),
        ("--rank 17 --init olora", "at most 16"),
        ("--rank four", "--rank of method lora cannot be 'four': expected a whole number"),
        ("--rank", "argument --rank: expected one argument"),
        ("--alpha nan", "--alpha of method lora cannot be 'nan': expected a number"),
        ("--dropout 1", "dropout must be at least 0 and below 1. Received: dropout=1.0"),
        ("--use-rslora maybe", "expected true or false"),
        ("--targets qurey", "targets='qurey' matches no layer"),
        ("--layers 7", "layers=[7] hold none of the targets; the model's layers are 0 to 1"),
        ("--epochs few", "argument --epochs: invalid int value: 'few'"),
        ("--epochs 0", "epochs must be at least 1. Received: 0"),
        ("--learning-rate inf", "learning-rate must be above 0. Received: inf"),
        ("--warmup 1.5", "warmup must be below 1 or whole. Received: 1.5"),
        ("--schedule linaer", "invalid choice: 'linaer'"),
        ("--max-length 33", "at most 32, the positions of preset"),
        ("--resume", "holds no checkpoint; there is nothing to resume"),
        ("--resume --overwrite", "exclude each other"),
        ("--data-dir /no/such", "--data-dir must be a folder that holds MRPC/train.tsv"),
        ("--tfds-dir x", "--offline are two sources of rows"),
        ("--adapter /no/such", "adapter folder '/no/such' does not exist"),
        ("--adapter x --rank 4", "--rank does not go with --adapter"),
        ("--preset bert_base_en_uncased", "preset must be minilm or a folder with --offline"),
        ("--task ax", "task ax has no training rows: give the adapter of an MNLI run with --adapter"),
        ("--task ax --adapter x --resume", "only predicted, which --resume does not go with"),
    ],
)
def test_bad_arguments(kpeft_run: Run, tmp_path: Path, arguments: str, named: str) -> None:
    assert_refused(kpeft_run("--output-dir", tmp_path / "run", *arguments.split()), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "--task is missing; one of cola, sst2"),
        ("--task mrpc", "a run needs a --method, or an --adapter"),
        ("--task mrpc --rank 4", "--rank needs a --method"),
        ("--task mrpc --method lora --preset bert_base_en_uncasd", "did you mean bert_base_en_uncased"),
    ],
)
def test_arguments_that_lack_something(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(Outcome(run.main(arguments.split()), *capsys.readouterr()), named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("train", "named"),
    [
        (None, "has no folder MRPC for mrpc"),
        (b"Quality\t#1 String\n1\tA.\n", "no column '#2 String'"),
        (b"Quality\t#1 String\t#2 String\n2\tA.\tB.\n", "line 2: a label of MRPC"),
        (b"Quality\t#1 String\t#2 String\n1\tA.\t\xff\n", "line 2: not UTF-8"),
        (b"Quality\t#1 String\t#2 String\n", "the train split is empty"),
    ],
)
def test_bad_rows(kpeft_run: Run, tmp_path: Path, train: bytes | None, named: str) -> None:
    folder = tmp_path / "glue" / ("RTE" if train is None else "MRPC")
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_bytes(train or b"")
    assert_refused(kpeft_run("--data-dir", folder.parent, "--output-dir", tmp_path / "run"), named, str(folder.parent))
    assert not (tmp_path / "run").exists()


def _truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _edit(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize(
    ("damage", "arguments", "named"),
    [
        (_truncate, "", "is damaged"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "", "cannot be read as JSON"),
        (_edit(r=4), "", "has shape"),
        (_edit(r=2.5), "", "r must be of type int. Received: r=2.5"),
        (_edit(peft_type="KPEFT_LORA", method={"name": "lora", "rank": "8"}), "", "rank of method lora cannot be '8'"),
        (_edit(peft_type="OFT"), "", "peft_type 'OFT' is not supported"),
        (_edit(), "--method bitfit", "--method bitfit does not fit --adapter"),
    ],
)
def test_bad_adapters(
    kpeft_run: Run, finished_run: Path, tmp_path: Path, damage: Any, arguments: str, named: str
) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(finished_run / "adapter", adapter)
    damage(adapter)
    outcome = kpeft_run("--adapter", adapter, "--output-dir", tmp_path / "run", *arguments.split())
    assert_refused(outcome, named, str(adapter))
    assert not (tmp_path / "run").exists()


def test_no_network(
    tiny_preset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr(kerashub, "load_json", fail)
    folders = f"--tfds-dir {tmp_path / 'tfds'} --output-dir {tmp_path / 'run'}"
    online = f"--task mrpc --method lora --max-length 16 {folders} --preset"
    outcome = Outcome(run.main([*online.split(), str(tiny_preset)]), *capsys.readouterr())
    named = ("could not be downloaded from https://", "no route to host", "--offline", "--data-dir")
    assert_refused(outcome, *named)
    outcome = Outcome(run.main([*online.split(), "bert_base_en_uncased"]), *capsys.readouterr())
    assert_refused(outcome, "'bert_base_en_uncased'", "no route to host", "--offline", "--preset FOLDER")
    assert list(tmp_path.iterdir()) == []


def test_another_backend(kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert_refused(kpeft_run("--output-dir", tmp_path / "run"), "KERAS_BACKEND=tensorflow: unset it or set it to jax")
    assert list(tmp_path.iterdir()) == []


# The output folder.


def test_a_finished_run_stays_unless_overwritten(kpeft_run: Run, finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    assert_refused(kpeft_run("--output-dir", folder), "already holds a run (result.json", "--overwrite")
    assert_refused(kpeft_run("--output-dir", folder, "--resume"), "finished run")
    # Bad input leaves the older run even then.
    assert_refused(kpeft_run("--output-dir", folder, "--overwrite", "--rank", "0"), "rank")
    assert contents(folder) == before
    assert kpeft_run("--output-dir", folder, "--overwrite", "--max-steps", "2").status == 0
    assert result(folder)["last"]["step"] == 2
    assert [line["step"] for line in history(folder)] == [1, 2, 2]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to(kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(kpeft_run("--output-dir", tmp_path / "file"), "file is a file")
    assert_refused(kpeft_run("--output-dir", tmp_path / "file" / "run"), "file is a file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert_refused(kpeft_run("--output-dir", tmp_path / "a" / "run"), f"no permission for {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def _full_for_safetensors(*_: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("place", "name", "failure"),
    [
        (os, "fsync", _full),
        (checkpoint, "save_file", _full_for_safetensors),
        (experiment, "save_adapter", _full),
        (History, "write", _full),
    ],
)
def test_a_full_disk(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, failure: Any
) -> None:
    monkeypatch.setattr(place, name, failure)
    monkeypatch.setattr(Progress, "on_step_end", lambda *_: None)
    assert_refused(kpeft_run("--output-dir", tmp_path), "No space left on device", status=1)
    assert not (tmp_path / "result.json").exists()


# What goes wrong while running.


@pytest.mark.parametrize(("steps", "named"), [("4", "loss of step 2 is"), ("1", "evaluation after step 1 failed")])
def test_numbers_that_are_not_finite(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: str, named: str
) -> None:
    monkeypatch.setattr(Progress, "on_step_end", lambda *_: None)
    rate = ("--learning-rate", "1e38", "--warmup", "0", "--weight-decay", "0")
    assert_refused(kpeft_run(*rate, "--max-steps", steps, "--output-dir", tmp_path), named, status=1)
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "adapter").exists()


def _defect(*_: Any, **__: Any) -> None:
    raise ValueError("somewhere else")


@pytest.mark.parametrize("defect", [_defect, int])
def test_a_defect_keeps_its_traceback(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: Any
) -> None:
    """`int("mrpc")` fails in a frame of kpeft's, but not at a `raise`."""
    monkeypatch.setattr(experiment, "get_task", defect)
    with pytest.raises(ValueError, match=r"somewhere else|invalid literal"):
        kpeft_run("--output-dir", tmp_path / "run")

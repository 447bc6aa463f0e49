"""The command line from end to end, in this process, with a tiny BERT and sample rows."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from command_line import Run, assert_refused, basic_arguments, contents, history, result, run_in_process

from kpeft import experiment, run
from kpeft.adapters import load_adapter
from kpeft.backbones import load_backbone
from kpeft.glue.sample import ROWS
from kpeft.glue.sources import SampleSource
from kpeft.glue.tasks import TASKS
from kpeft.glue.tokens import encode
from kpeft.methods import METHODS
from kpeft.training import FitState
from kpeft.training.callbacks import Progress

# What a run leaves behind.


def test_result_has_the_fixed_schema(finished_run: Path, tiny_preset: Path) -> None:
    value = result(finished_run)
    assert set(value) == {
        "schema", "task", "method", "preset", "seed", "config", "parameters", "data", "best", "last", "timing",
        "versions",
    }  # fmt: skip
    assert (value["schema"], value["task"], value["method"], value["seed"]) == (1, "mrpc", "lora", 0)
    assert value["preset"] == str(tiny_preset)
    # Queries and values of two layers: 2 · 2 · (16 · 8 + 8 · 16); and the head.
    assert value["parameters"] == {"trainable": 1024 + 34, "total": value["parameters"]["total"]}
    assert value["data"] == {"source": "sample", "train_examples": 64, "validation_examples": 64}
    for score in (value["best"], value["last"]):
        assert set(score) == {"step", "epoch", "metrics"}
        assert (score["step"], score["epoch"]) == (4, 1.0)
        assert set(score["metrics"]) == {"accuracy", "f1", "precision", "recall", "loss"}
    timing = value["timing"]
    assert set(timing) == {"total_seconds", "train_seconds", "train_examples_per_second", "compile_seconds"}
    assert timing["total_seconds"] > timing["compile_seconds"] + timing["train_seconds"] > 0
    assert set(value["versions"]) == {"kpeft", "keras", "jax"}
    assert value["config"]["method"]["rank"] == 8
    assert value["config"]["training"]["learning_rate"] == 1e-3


def test_history_has_a_line_for_each_step_and_evaluation(finished_run: Path) -> None:
    lines = history(finished_run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    assert lines[-1] == result(finished_run)["last"]
    assert sorted(path.name for path in (finished_run / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_saved_adapter_gives_the_best_metrics_again(
    finished_run: Path, tiny_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TASKS["mrpc"]
    backbone = load_backbone(str(tiny_preset), 2, seed=99)
    load_adapter(backbone.classifier, finished_run / "adapter")
    # The run's validation split had 64 rows, of which the last depend on how many training rows there were.
    monkeypatch.setitem(ROWS, "train", 200)
    rows = encode(SampleSource().rows(task, "validation").head(64), backbone.tokenizer, 16)
    assert experiment.evaluate(backbone.classifier, task, {"": rows}) == result(finished_run)["best"]["metrics"]


def test_the_same_run_twice_is_equal_to_the_bit(kpeft_run: Run, finished_run: Path, tmp_path: Path) -> None:
    outcome = kpeft_run("--output-dir", tmp_path / "again")
    assert outcome.status == 0
    for name in ("best", "last", "parameters", "config"):
        assert result(tmp_path / "again")[name] == result(finished_run)[name]
    for name in ("history.jsonl", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (finished_run / name).read_bytes()
    assert "best: step 4  accuracy " in outcome.out
    assert "the scores say nothing about GLUE" in outcome.out
    assert kpeft_run("--output-dir", tmp_path / "other", "--seed", "99999999999").status == 0
    assert result(tmp_path / "other")["last"]["metrics"]["loss"] != result(finished_run)["last"]["metrics"]["loss"]


def test_limits_and_bfloat16(kpeft_run: Run, tmp_path: Path) -> None:
    limits = ("--limit", "40", "--max-steps", "2", "--eval-steps", "1")
    assert kpeft_run(*limits, "--precision", "bfloat16", "--output-dir", tmp_path).status == 0
    value = result(tmp_path)
    assert value["data"]["train_examples"] == 40
    assert (value["last"]["step"], value["last"]["epoch"]) == (2, 2 / 3)
    assert value["config"]["precision"] == "bfloat16"
    assert [line["step"] for line in history(tmp_path) if "metrics" in line] == [1, 2]


def test_list_names_every_method_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    first_words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert set(METHODS) | set(TASKS) <= set(first_words)


# Going on from an adapter, and from where a run was interrupted.


def test_starts_from_an_adapter(kpeft_run: Run, finished_run: Path, tmp_path: Path) -> None:
    start = (
        "--adapter",
        finished_run / "adapter",
        "--max-steps",
        "1",
        "--learning-rate",
        "1e-30",
        "--weight-decay",
        "0",
    )
    assert kpeft_run(*start, "--output-dir", tmp_path / "run").status == 0
    value = result(tmp_path / "run")
    assert value["best"]["metrics"] == pytest.approx(result(finished_run)["best"]["metrics"])
    assert value["config"]["method"] == result(finished_run)["config"]["method"]


def test_an_adapter_alone_brings_its_method_and_rate(finished_run: Path) -> None:
    options = run.make_parser().parse_args(["--task", "sst2", "--adapter", str(finished_run / "adapter")])
    config = run.make_config(options)
    assert (config.method, config.training.learning_rate) == (None, 5e-4)


@pytest.fixture(scope="module")
def whole_run(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs, not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    arguments = [*basic_arguments(tiny_preset), "--epochs", "2", "--output-dir", str(folder)]
    assert run_in_process(arguments) == 0
    return folder


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 2), (signal.SIGTERM, 5)])
def test_an_interrupted_run_goes_on_to_the_same_end(
    kpeft_run: Run, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int
) -> None:
    def interrupt(_: Progress, state: FitState) -> None:
        if state.step == step:
            os.kill(os.getpid(), number)

    arguments = ("--epochs", "2", "--output-dir", tmp_path)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_step_end", interrupt)
        outcome = kpeft_run(*arguments)
    assert outcome.status == 130
    # Progress comes last in a step, so the next one is the last.
    assert outcome.err.endswith(f"kpeft: interrupted at step {step + 1}; --resume goes on from there.\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "checkpoints", "history.jsonl"]

    before = contents(tmp_path)
    assert_refused(kpeft_run(*arguments), "already holds a run", "--resume", "--overwrite")
    assert_refused(kpeft_run(*arguments, "--epochs", "3", "--resume"), "epochs was 2", "Received: epochs=3")
    assert contents(tmp_path) == before

    assert kpeft_run(*arguments, "--resume").status == 0
    for name in ("best", "last"):
        assert result(tmp_path)[name] == result(whole_run)[name]
    for file in ("history.jsonl", "adapter/adapter_model.safetensors"):
        assert (tmp_path / file).read_bytes() == (whole_run / file).read_bytes()
    assert_refused(kpeft_run(*arguments, "--resume"), "finished run", "nothing to resume")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_before_training(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(experiment, "load_data", lambda *_: os.kill(os.getpid(), number))
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job may have been told to ignore it
    try:
        assert_refused(kpeft_run("--output-dir", tmp_path / "run"), "interrupted", status=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "run").exists()

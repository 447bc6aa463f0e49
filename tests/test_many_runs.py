"""Several runs at once: each equals the same run alone, and leaves the same files."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_refused, basic_arguments, contents, history, result, run_in_process
from safetensors.numpy import load_file

from kpeft import experiment, many_runs
from kpeft.at_once import check_at_once, combine
from kpeft.config import RunConfig, TrainingConfig
from kpeft.methods import BitFit, LoRA
from kpeft.results import RunResult
from kpeft.run import make_configs, make_parser
from kpeft.shared_model import SharedModel
from kpeft.training import FitState, batches
from kpeft.training.callbacks import Progress

# Sums are taken in another order, and padded to another length: float32's rounding, and what Adam makes of it.
# A correlation of predictions that hardly differ magnifies it.
LOSS, WEIGHT, METRIC = 2e-5, 2e-5, 1e-4


def keys(value: Any) -> Any:
    return {name: keys(each) for name, each in value.items()} if isinstance(value, dict) else None


def assert_equal_runs(together: Path, alone: Path, unused: str = "none") -> None:
    """Compares files, losses, metrics and weights; `unused` is a part of names of weights without an effect."""
    assert sorted(set(contents(together))) == sorted(name for name in contents(alone) if "checkpoints" not in name)
    one, other = result(together), result(alone)
    assert keys(one) == keys(other)
    for name in ("task", "method", "preset", "seed", "config", "parameters", "data", "versions"):
        assert one[name] == other[name]
    for name in ("best", "last"):
        assert (one[name]["step"], one[name]["epoch"]) == (other[name]["step"], other[name]["epoch"])
        assert one[name]["metrics"] == pytest.approx(other[name]["metrics"], rel=LOSS, abs=METRIC)
    assert len(history(together)) == len(history(alone))
    for line, expected in zip(history(together), history(alone), strict=True):
        assert keys(line) == keys(expected)
        assert line.pop("metrics", {}) == pytest.approx(expected.pop("metrics", {}), rel=LOSS, abs=METRIC)
        assert line == pytest.approx(expected, rel=LOSS)
    assert contents(together)["adapter/adapter_config.json"] == contents(alone)["adapter/adapter_config.json"]
    weights, wanted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (together, alone))
    assert weights.keys() == wanted.keys()
    for name, weight in wanted.items():
        if unused not in name:
            np.testing.assert_allclose(weights[name], weight, atol=WEIGHT, err_msg=name)


def compare(preset: Path, folder: Path, arguments: str, varied: str, single: str, unused: str) -> None:
    """Trains all runs at once, and one of them alone."""
    basic = [*basic_arguments(preset), *arguments.split()]
    assert run_in_process([*basic, *varied.split(), "--output-dir", str(folder / "all")]) == 0
    values = [f"--{each.replace('_', '-')}" for each in single.split(",")]
    assert run_in_process([*basic, *values, "--output-dir", str(folder / single)]) == 0
    assert_equal_runs(folder / "all" / single, folder / single, unused)


@pytest.mark.slow
def test_each_run_equals_the_same_run_alone(tiny_preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout everywhere, two widths, two micro-batches a step; seeds, rates and ranks."""
    monkeypatch.setattr(batches, "choose_widths", lambda lengths: (int(np.median(lengths)), int(lengths.max())))
    arguments = "--dropout 0.2 --lr-ratio 2 --targets all-linear --limit 44 --batch-size 8 --gradient-accumulation 2"
    varied = "--seed 0,3 --learning-rate 1e-2,1e-3 --rank 2,4"
    compare(tiny_preset, tmp_path, f"{arguments} --max-length 32", varied, "seed=3,learning_rate=0.001,rank=2", "none")
    runs = json.loads((tmp_path / "all" / "runs.json").read_text())
    assert (set(runs), runs["schema"], len(runs["runs"])) == ({"schema", "runs"}, 1, 8)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(
        ["runs.json", *(run["folder"] for run in runs["runs"])]
    )
    for run in runs["runs"]:
        single = result(tmp_path / "all" / run["folder"])
        training, method = single["config"]["training"], single["config"]["method"]
        assert run["folder"] == f"seed={run['seed']},learning_rate={run['learning_rate']},rank={run['rank']}"
        assert (run["seed"], run["learning_rate"]) == (training["seed"], training["learning_rate"])
        assert run["rank"] == method["rank"]
        assert (run["status"], run["error"]) == ("finished", None)
        assert all(run[name] == single[name] for name in ("best", "last", "timing"))


def test_ranks(tiny_preset: Path, tmp_path: Path) -> None:
    compare(tiny_preset, tmp_path, "--max-steps 2", "--seed 0,3 --rank 2,4", "seed=3,rank=2", "none")


@pytest.mark.slow
def test_adalora_drops_the_same_in_each_run(tiny_preset: Path, tmp_path: Path) -> None:
    arguments = "--method adalora --rank 4 --target-rank 2 --orth-reg-weight 0.1"
    varied = "--seed 0,3 --learning-rate 1e-2,1e-3"
    compare(tiny_preset, tmp_path, arguments, varied, "seed=3,learning_rate=0.01", "none")
    adapter = load_file(tmp_path / "all" / "seed=3,learning_rate=0.01" / "adapter" / "adapter_model.safetensors")
    values = [value for name, value in adapter.items() if name.endswith("lora_E")]
    assert sum(int((value != 0).sum()) for value in values) == 2 * len(values)


def test_bitfit_of_a_regression_under_a_frozen_head(tiny_preset: Path, tmp_path: Path) -> None:
    """The head starts at the mean label, and its frozen kernel is another for each seed.

    A bias of attention's keys changes no output: its gradient is rounding, which Adam blows up.
    """
    arguments, varied = (
        "--task stsb --method bitfit --train-head false --warmup 0",
        "--learning-rate 1e-2,1e-3 --seed 0,3",
    )
    compare(tiny_preset, tmp_path, arguments, varied, "seed=3,learning_rate=0.01", "key")


@pytest.mark.slow
def test_gates(tiny_preset: Path, tmp_path: Path) -> None:
    """A row's gate is the same beside the other runs' longer rows."""
    arguments = "--method lora+prefix+bottleneck --gated true --tokens 2 --size 3 --style pfeiffer"
    compare(tiny_preset, tmp_path, arguments, "--seed 0,3", "seed=3", "key")


def test_frozen_layers_are_as_in_inference_as_in_a_single_run(tiny_preset: Path, tmp_path: Path) -> None:
    """Two epochs, in which a single run keeps what they compute."""
    compare(tiny_preset, tmp_path, "--method head --epochs 2", "--learning-rate 1e-1,1e-2", "learning_rate=0.1", "none")


# An option or two that makes each method small, and a part of names of weights whose gradient is rounding.
EACH = {
    "dora": ("--rank 2", "none"),
    "vera": ("--rank 3", "none"),
    "prompt": ("--tokens 2", "none"),
    "qlora": ("--rank 2", "none"),
    "full": ("", "key"),
    "freeze": ("--layers 1", "key"),
    "layernorm": ("", "none"),
    "ia3": ("", "none"),
    "loha": ("--rank 2", "none"),
    "lokr": ("--rank 2", "none"),
    "bottleneck": ("--size 2", "none"),
    "compacter": ("--size 4", "none"),
    "p-tuning": ("--tokens 2 --hidden 4", "none"),
    "prefix": ("--tokens 2", "none"),
}
FAST = ("prompt",)


@pytest.mark.parametrize("method", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in EACH])
def test_each_method_equals_the_same_run_alone(method: str, tiny_preset: Path, tmp_path: Path) -> None:
    options, unused = EACH[method]
    compare(tiny_preset, tmp_path, f"--method {method} {options} --max-steps 2", "--seed 0,3", "seed=3", unused)


def test_a_run_that_fails_leaves_the_others_alone(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "on_step_end", lambda *_: None)
    arguments = ("--output-dir", tmp_path, "--warmup", "0", "--weight-decay", "0", "--learning-rate", "1e38,1e-3")
    outcome = kpeft_run(*arguments)
    assert_refused(outcome, "1 of 2 runs failed. learning_rate=1e+38: The loss of step 2 is", status=1)
    failed, finished = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert (failed["status"], failed["best"], failed["timing"]) == ("failed", None, None)
    assert "loss of step 2" in failed["error"]
    assert set(contents(tmp_path / failed["folder"])) == {"history.jsonl"}
    assert [line["step"] for line in history(tmp_path / failed["folder"])] == [1]
    assert (finished["status"], finished["last"]["step"]) == ("finished", 4)
    assert [line["step"] for line in history(tmp_path / finished["folder"])] == [1, 2, 3, 4, 4]
    # A folder with runs stays unless overwritten, and so does one with a single run.
    before = contents(tmp_path)
    refused = kpeft_run(*arguments)
    assert_refused(refused, "already holds a run (runs.json): choose another folder or replace it with --overwrite")
    assert "--resume" not in refused.err
    (tmp_path / "runs.json").write_text("{")
    assert_refused(kpeft_run(*arguments, "--overwrite"), f"{tmp_path}/runs.json is no list of runs")
    (tmp_path / "runs.json").unlink()
    assert_refused(kpeft_run(*arguments), f"{tmp_path}/learning_rate=1e+38 already holds a run (history.jsonl)")
    (tmp_path / "runs.json").write_bytes(before["runs.json"])
    assert_refused(kpeft_run(*arguments, "--overwrite", "--rank", "17", "--init", "olora"), "rank must be at most 16")
    assert contents(tmp_path) == before
    assert kpeft_run(*arguments, "--overwrite", "--learning-rate", "1e-3", "--max-steps", "1").status == 0
    assert not list(tmp_path.glob("learning_rate*"))  # also where a single run takes the place of several


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_when_one_has_run_out_of_patience(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The first run gets worse and ends after two steps; the second gets better until the signal."""
    scores = iter([0.9, 0.1, 0.5, 0.2, 0.3])

    def interrupt(_: Progress, state: FitState) -> None:
        if state.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(many_runs, "metrics_of", lambda *_: {"accuracy": next(scores), "f1": 0.0})
    monkeypatch.setattr(Progress, "on_step_end", interrupt)
    options = ("--eval-steps", "1", "--patience", "1", "--overwrite", "--seed", "0,1", "--output-dir", tmp_path)
    outcome = kpeft_run(*options)
    assert outcome.status == 130
    assert outcome.err.endswith(
        "kpeft: interrupted; 1 of 2 runs had not ended: start those again. The others are kept.\n"
    )
    ended, interrupted = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert (ended["status"], ended["best"]["step"], ended["last"]["step"]) == ("finished", 1, 2)
    assert [line["step"] for line in history(tmp_path / "seed=0")] == [1, 1, 2, 2]
    assert result(tmp_path / "seed=0")["last"] == ended["last"]
    assert (tmp_path / "seed=0" / "adapter" / "adapter_model.safetensors").exists()
    assert (interrupted["status"], interrupted["last"], interrupted["error"]) == ("interrupted", None, None)
    assert set(contents(tmp_path / "seed=1")) == {"history.jsonl"}
    assert [line["step"] for line in history(tmp_path / "seed=1")] == [1, 1, 2, 2, 3, 3]


def test_an_error_that_ends_the_training_leaves_the_runs_that_had_ended(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.9, 0.1, 0.5, 0.6])

    def fail(_: Progress, state: FitState) -> None:
        if state.step == 2:
            raise MemoryError

    monkeypatch.setattr(many_runs, "metrics_of", lambda *_: {"accuracy": next(scores), "f1": 0.0})
    monkeypatch.setattr(Progress, "on_step_end", fail)
    with pytest.raises(MemoryError):
        kpeft_run("--eval-steps", "1", "--patience", "1", "--seed", "0,1", "--output-dir", tmp_path)
    ended, failed = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert (ended["status"], ended["best"]["step"], ended["last"]["step"]) == ("finished", 1, 2)
    assert result(tmp_path / "seed=0")["last"] == ended["last"]
    assert (tmp_path / "seed=0" / "adapter" / "adapter_model.safetensors").exists()
    assert (failed["status"], failed["error"], failed["last"]) == ("failed", "MemoryError", None)
    assert set(contents(tmp_path / "seed=1")) == {"history.jsonl"}
    assert [line["step"] for line in history(tmp_path / "seed=1")] == [1, 1, 2, 2]


def test_interrupted_while_results_are_written(kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint holds what is being written, so it is written to the end."""
    write = SharedModel.write

    def interrupted(*arguments: Any) -> RunResult:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(SharedModel, "write", write)
        return write(*arguments)

    monkeypatch.setattr(Progress, "on_step_end", lambda *_: None)
    monkeypatch.setattr(SharedModel, "write", interrupted)
    outcome = kpeft_run("--max-steps", "1", "--seed", "0,1", "--output-dir", tmp_path)
    lines = outcome.err.strip().splitlines()
    assert (outcome.status, lines[-1]) == (
        130,
        "kpeft: interrupted after training; runs.json says how each of the 2 runs ended.",
    )
    assert outcome.out.count("new, not from the preset") == 1
    assert "SIGINT: ending when all results are written; once more ends at once." in lines
    for run in json.loads((tmp_path / "runs.json").read_text())["runs"]:
        assert (run["status"], run["last"]) == ("finished", result(tmp_path / run["folder"])["last"])


@pytest.mark.parametrize(("seeds", "named"), [("0", "--resume goes on from a saved step, if any."), ("0,1", None)])
def test_interrupted_outside_of_training(
    kpeft_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: str, named: str | None
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "check_backend", interrupt)
    monkeypatch.setattr(many_runs, "check_backend", interrupt)
    outcome = kpeft_run("--seed", seeds, "--output-dir", tmp_path / "run")
    said = " ".join(filter(None, ["kpeft: interrupted before or after training.", named]))
    assert (outcome.status, outcome.err) == (130, f"{said}\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--seed 0,1 --resume", "--resume does not go with several runs at once"),
        ("--seed 0,1 --save-steps 2", "--save-steps does not go with several runs at once"),
        ("--seed 0,1 --keep 2", "--keep does not go with several runs at once"),
        ("--learning-rate 1e-3,1e-4 --adapter x", "--adapter does not go with several runs at once"),
        ("--adapter x --rank 2,4", "--rank does not go with --adapter"),
        ("--seed 0,0", "several runs would write to"),
        ("--learning-rate 0.001,1e-3", "learning_rate=0.001: give each value, or folder, once"),
        ("--seed 0,x", "argument --seed: invalid int value: '0,x'"),
        ("--learning-rate 1e-3,,", "argument --learning-rate: invalid float value: '1e-3,,'"),
        ("--learning-rate ,", "argument --learning-rate: invalid float value: ','"),
        ("--learning-rate 1e-3,-1", "learning-rate must be above 0. Received: -1.0"),
        ("--rank 2,four", "--rank of method lora cannot be 'four': expected a whole number"),
        ("--seed 0,1 --rank 17 --init olora", "at most 16"),
        ("--rank 2,4 --init pissa", "several ranks at once are for method lora"),
        ("--method dora --rank 2,4", "several ranks at once are for method lora"),
        ("--method bitfit --rank 2,4", "--rank does not belong to method bitfit"),
    ],
)
def test_bad_lists(kpeft_run: Run, tmp_path: Path, arguments: str, named: str) -> None:
    assert_refused(kpeft_run("--output-dir", tmp_path / "runs", *arguments.split()), named)
    assert list(tmp_path.iterdir()) == []


def test_a_comma_behind_one_value_makes_a_folder_of_its_name() -> None:
    def made(arguments: str) -> list[str]:
        parsed = make_parser().parse_args(
            ["--task", "mrpc", "--method", "lora", "--output-dir", "runs", *arguments.split()]
        )
        return [Path(config.output_dir).name for config in make_configs(parsed)]

    assert made("--seed 3") == ["runs"]
    assert made("--seed 3,") == ["seed=3"]
    assert made("--seed 3, --learning-rate 1e-3, --rank 4,") == ["seed=3,learning_rate=0.001,rank=4"]
    assert made("--seed 3, --rank 4,8") == ["seed=3,rank=4", "seed=3,rank=8"] == made("--seed 3, --rank 4,8,")


def test_runs_that_do_not_go_together(tmp_path: Path) -> None:
    one = RunConfig(task="mrpc", method=LoRA(), output_dir=str(tmp_path / "one"))
    for other in (replace(one, method=LoRA(alpha=1)), replace(one, task="rte"), replace(one, method=BitFit())):
        with pytest.raises(ValueError, match="may differ in seed, learning rate, rank and output folder only"):
            check_at_once([one, replace(other, output_dir=str(tmp_path / "other"))])


def test_no_two_runs_share_a_folder(tmp_path: Path) -> None:
    """Rates that differ beyond six digits have folders of their own; another spelling of a folder is that folder."""
    one = RunConfig(task="mrpc", method=LoRA(), output_dir=str(tmp_path / "one"))
    rates = [0.001, 0.0010000001, 1e-5, 3e-4, 1e38]
    assert [Path(run.output_dir).name for run in combine(one, {"learning_rate": rates}, tmp_path)] == [
        f"learning_rate={text}" for text in ("0.001", "0.0010000001", "1e-05", "0.0003", "1e+38")
    ]
    other = replace(one, training=TrainingConfig(seed=1), output_dir=f"{tmp_path}/./one")
    with pytest.raises(ValueError, match=r"several runs would write to .*one, .*one: give each value, or folder, once"):
        check_at_once([one, other])


def test_without_a_folder_the_runs_share_one_that_names_no_seed() -> None:
    options = make_parser().parse_args(["--task", "rte", "--method", "lora", "--seed", "0,7", "--rank", "2,4"])
    assert [config.output_dir for config in make_configs(options)] == [
        f"runs/rte-lora-bert_base_en_uncased/seed={seed},rank={rank}" for seed in (0, 7) for rank in (2, 4)
    ]

"""The comparison of all methods: what its flags mean, what it leaves out on a second go, and its table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from finished_runs import write_result

import kpeft
from experiments import methods
from experiments.comparison import plot, table
from experiments.recipe import runs_of
from experiments.runs import Job, run_all
from kpeft.results import installed_versions


@pytest.mark.parametrize("flags", methods.METHODS)
def test_flags_are_those_of_a_run(flags: str) -> None:
    assert methods.method_of(flags).name == flags.split()[0]


def test_every_method_is_compared() -> None:
    assert kpeft.METHODS.keys() <= set(methods.METHODS)


def test_finished_runs_are_read_by_seed(tmp_path: Path) -> None:
    common = {"seeds": [0, 1], "data_dir": "glue", "epochs": 3, "output": tmp_path, "precision": "bfloat16"}
    options = argparse.Namespace(**common, preset=None, limit=None, offline=False, at_once=False)
    metrics = {"accuracy": 0.8, "f1": 0.86}
    first, second = runs_of(methods.sweep_of("lora --rank 4"), options)
    assert (first.folder, second.folder) == (tmp_path / "lora-rank-4" / "seed=0", tmp_path / "lora-rank-4" / "seed=1")
    config = first.config()
    assert (config.training.eval_steps, config.training.epochs, config.precision) == (100_000, 3, "bfloat16")
    write_result(first, **metrics)
    lines = [{"step": step, "loss": float(step)} for step in range(1, 21)] + [{"step": 20, "metrics": metrics}]
    (first.folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 16, "training_loss": 19.5}
    assert methods.scores("lora --rank 4", options) == [
        {"seed": 0, **kept, "versions": installed_versions(), **metrics}
    ]


def test_a_failed_run_is_told_and_the_next_one_runs(capsys: Any) -> None:
    run_all([Job("bad", ["--task", "nothing"]), Job("good", ["--list"])], side_by_side=1)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("1/2 bad: failed with status 2")
    assert "nothing" in first
    assert second.startswith("2/2 good: done")


def test_the_table_has_means_and_ratios_of_rounds(tmp_path: Path) -> None:
    run = {"seed": 0, "learning_rate": 1e-3, "epochs": 5, "accuracy": 0.8, "f1": 0.86}
    runs = [run, {**run, "seed": 1, "accuracy": 0.9}]
    slow = [10.0, 20.0, 10.0]
    full = {"runs": [], "trainable": 1000, "adapter_bytes": 4000, "speed": {"turns": slow, "full": slow}}
    speed = {"turns": [30.0, 20.0, 20.0], "full": slow}
    lora = {"runs": runs, "trainable": 10, "adapter_bytes": 10**6, "speed": speed}
    result = {"methods": {"full": full, "lora": lora}}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(result).splitlines()]
    assert rows[2] == ["`full`", "1,000", "0.00", "", "", "", "", "0", "1.00 (1.00 to 1.00)"]
    wanted = ["`lora`", "10", "1.00", "0.001", "5", "0.850 ± 0.071", "0.860 ± 0.000", "2", "2.00 (1.00 to 3.00)"]
    assert rows[3] == wanted
    plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

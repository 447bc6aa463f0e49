"""The comparison of all methods: what its flags mean, what it leaves out on a second go, and its table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

import kpeft
from experiments import methods
from experiments.comparison import plot, table
from experiments.runs import Job, run_all


@pytest.mark.parametrize("flags", methods.METHODS)
def test_flags_are_those_of_a_run(flags: str) -> None:
    assert methods.method_of(flags).name == flags.split()[0]


def test_every_method_is_compared() -> None:
    assert kpeft.METHODS.keys() <= set(methods.METHODS)


def options(folder: Path) -> argparse.Namespace:
    return argparse.Namespace(output=folder, seeds=[0, 1], methods=["full", "lora --rank 4"], data_dir="glue", epochs=3)


def test_finished_runs_are_not_made_again(tmp_path: Path) -> None:
    metrics = {"accuracy": 0.8, "f1": 0.86}
    training = {"learning_rate": 1e-3, "epochs": 5, "batch_size": 16}
    result = {"config": {"training": training}, "versions": {}, "last": {"metrics": metrics}}
    done = methods.folder_of("lora --rank 4", 0, options(tmp_path)) / "result.json"
    done.parent.mkdir(parents=True)
    done.write_text(json.dumps(result), encoding="utf-8")
    jobs = methods.jobs(options(tmp_path))
    assert [job.name for job in jobs] == ["full, seed 0", "full, seed 1", "lora --rank 4, seed 1"]
    assert jobs[2].flags[-5:] == [
        "--eval-steps",
        "100000",
        "--output-dir",
        str(done.parents[1] / "seed1"),
        "--overwrite",
    ]
    assert methods.scores("lora --rank 4", options(tmp_path)) == [{"seed": 0, **training, "versions": {}, **metrics}]


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

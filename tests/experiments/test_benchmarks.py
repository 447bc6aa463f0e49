"""The benchmark: turns are counted and timed as said, ratios are of the same round, FLOPs are counted right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.contestants import ABLATIONS, KINDS, Turn, summary
from experiments.benchmarks.cost import Encoder, flops_per_token
from experiments.benchmarks.tables import plot, ratio, table
from experiments.benchmarks.turns import __file__ as turns_file

WORKER = """
import sys, time
from turns import Turns
turns = Turns()
turns.begin()
print("noise")
while turns.after_step(16, 100):
    time.sleep(0.02)
"""


def test_turns_are_counted_and_other_output_is_no_reply() -> None:
    requests = "".join(json.dumps({"steps": steps}) + "\n" for steps in (2, 5))
    ran = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=requests,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(turns_file).parent,
    )
    replies = [json.loads(line) for line in ran.stdout.splitlines()]
    assert replies[0] == {"ready": True}
    assert [(reply["rows"], reply["tokens"]) for reply in replies[1:]] == [(32, 200), (80, 500)]
    assert replies[2]["seconds"] >= 0.08
    assert "noise" in ran.stderr


def figures(*speeds: float) -> dict[str, Any]:
    return summary([Turn(seconds=16 / speed, rows=16, tokens=800, peak_bytes=2**30) for speed in speeds]) | {
        "first_step_seconds": 3.0
    }


def test_a_ratio_is_of_the_same_round() -> None:
    assert ratio(figures(20, 40, 10), figures(10, 10, 10)) == "2.00 (1.00 to 4.00)"
    assert ratio(None, figures(10)) == ""


def test_the_table_and_the_picture_show_every_contestant(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    contestants = {"kpeft bfloat16": figures(100, 110), "KerasHub": figures(10, 10)}
    result = {
        "task": "mrpc",
        "source": "tsv",
        "batch_size": 16,
        "machine": {"cpus": 2},
        "methods": {"lora": contestants, "full": contestants},
    }
    text = table(result, ["lora", "full"])
    assert text.count("KerasHub") == 2
    assert "| LoRA, query and value | KerasHub | 10.0 | 500 | 1.00 | 3.0 | 10.50 (10.00 to 11.00) |" in text
    plot(result, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").stat().st_size > 1000


def test_flops_count_what_each_method_needs() -> None:
    encoder = Encoder(layers=12, width=768, inner=3072)
    assert encoder.linear == 84_934_656  # BERT-base's kernels in its layers
    full, lora, head = (flops_per_token(encoder, method, 0) for method in ("full", "lora", "head"))
    assert (full, lora, head) == (6 * encoder.linear, 4 * encoder.linear, 2 * encoder.linear)
    assert flops_per_token(encoder, "head", 128) - head == 4 * 12 * 768 * 128


def test_contestants_have_names_of_their_own() -> None:
    names = [kind.name for kind in (*KINDS, *ABLATIONS)]
    assert len(set(names)) == len(names) == 11

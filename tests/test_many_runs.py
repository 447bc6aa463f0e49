"""Several runs at once: each equals the same run alone, and leaves the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_refused, basic_arguments, contents, history, result, run_in_process
from safetensors.numpy import load_file

# Sums are taken in another order, and padded to another length: float32's rounding, and what Adam makes of it.
LOSS, WEIGHT = 2e-5, 2e-5


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
        assert one[name]["metrics"] == pytest.approx(other[name]["metrics"], rel=LOSS, abs=1e-6)
    assert len(history(together)) == len(history(alone))
    for line, expected in zip(history(together), history(alone), strict=True):
        assert keys(line) == keys(expected)
        assert line.pop("metrics", {}) == pytest.approx(expected.pop("metrics", {}), rel=LOSS, abs=1e-6)
        assert line == pytest.approx(expected, rel=LOSS)
    assert contents(together)["adapter/adapter_config.json"] == contents(alone)["adapter/adapter_config.json"]
    weights, wanted = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (together, alone))
    assert weights.keys() == wanted.keys()
    for name, weight in wanted.items():
        if unused not in name:
            np.testing.assert_allclose(weights[name], weight, atol=WEIGHT, err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "varied", "singles", "unused"),
    [
        (
            "--dropout 0.2 --targets all-linear --max-length 32 --gradient-accumulation 2 --eval-steps 1",
            "--seed 0,3 --learning-rate 1e-2,1e-3 --rank 2,4",
            (
                "seed=0,learning_rate=0.01,rank=2",
                "seed=3,learning_rate=0.001,rank=4",
                "seed=3,learning_rate=0.01,rank=2",
            ),
            "none",
        ),
    ],
)
def test_each_run_equals_the_same_run_alone(
    tiny_preset: Path, tmp_path: Path, arguments: str, varied: str, singles: tuple[str, ...], unused: str
) -> None:
    basic = [*basic_arguments(tiny_preset), *arguments.split()]
    assert run_in_process([*basic, *varied.split(), "--output-dir", str(tmp_path / "all")]) == 0
    for name in singles:
        values = [f"--{each.replace('_', '-')}" for each in name.split(",")]
        assert run_in_process([*basic, *values, "--output-dir", str(tmp_path / name)]) == 0
        assert_equal_runs(tmp_path / "all" / name, tmp_path / name, unused)

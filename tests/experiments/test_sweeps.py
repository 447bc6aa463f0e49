"""The sweeps: growth is fitted right, points are measured once, what does not fit the time is dropped and said."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmarks import many_runs, rounds
from experiments.benchmarks.budget import Measurement, run_within
from experiments.benchmarks.contestants import COMPILED_PEER, KINDS, Contestant, Kind, Turn
from experiments.benchmarks.cost import Encoder, flops_per_token, known_peak
from experiments.benchmarks.grid import AXES, LORA, Point, add, axis_points, grid, load, methods_at, missing
from experiments.benchmarks.growth import describe, exponent, report, sentences
from experiments.benchmarks.random_model import write_config
from experiments.benchmarks.rounds import Entry, compete, figures, steps_of_turn
from experiments.benchmarks.rows import random_rows, read_rows, write_rows
from experiments.benchmarks.verdict import report as verdict
from kpeft.backbones.huggingface_config import read_config
from kpeft.run import make_parser

METHODS = ("lora", "lora_all_linear", "bitfit", "full", "head")
SETTINGS = {"width": 384, "machine": {"cpus": 2}}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_recovered(power: float) -> None:
    assert exponent([(x, 3.0 * x**power) for x in (32, 64, 128, 256, 512)]) == pytest.approx(power)
    noisy = [(x, x**power * (1 + 0.01 * (-1) ** i)) for i, x in enumerate((2, 4, 8, 16, 32))]
    assert exponent(noisy) == pytest.approx(power, abs=0.02)


def test_the_exponent_is_of_the_upper_half() -> None:
    assert exponent([(512, 512.0), (32, 99.0), (64, 98.0), (128, 128.0), (256, 256.0)]) == pytest.approx(1.0)
    assert exponent([(4, 1.0), (8, 2.0)]) == pytest.approx(1.0)
    assert exponent([(4, 1.0)]) is None
    assert [describe(slope) for slope in (0.0, 0.5, 1.0, 1.9)] == [
        "hardly at all",
        "less than linearly",
        "about linearly",
        "more than linearly",
    ]


def made_up(point: Point, method: str) -> dict[str, float]:
    """Time as length^1.5, batch^1, layers^0.5; full takes ten times as long, and rank matters to LoRA alone."""
    seconds = (point.length / 64) ** 1.5 * (point.batch / 16) * (point.layers / 6) ** 0.5
    seconds *= 10 if method == "full" else 1
    seconds *= (point.rank / 8) ** 0.2 if method in LORA else 1
    tokens = point.length * point.batch
    return {
        "seconds_per_step": seconds,
        "tokens_per_second": tokens / seconds,
        "flops_per_step": tokens * 1e9,
        "peak_gib": 1.0 + tokens / 1024,
    }


def filled() -> dict[str, Any]:
    result = load(Path("nowhere.json"), SETTINGS)
    for point in grid(["bfloat16"], AXES):
        add(result, point, {method: made_up(point, method) for method in methods_at(point, METHODS)})
    return result


def test_the_report_says_what_the_figures_say() -> None:
    text = report(filled(), "bfloat16")
    head, full, lora = (
        next(line for line in text.splitlines() if line.startswith(f"| {m}")) for m in ("method", "full", "LoRA, q")
    )
    assert head == "| method | length 128 to 512 | batch 16 to 64 | rank 16 to 256 | layers 6 to 24 |"
    assert full.startswith("| full | 1.50 (1.00; ")
    assert full.endswith(" |  | 0.50 (0.00; 0.00) |")  # no rank; made-up FLOPs know nothing of layers
    assert "| 0.20 (0.00; 0.00) |" in lora
    said = dict(line.partition(": ")[::2] for line in sentences(filled(), "bfloat16").splitlines())
    assert said["- **length**"].startswith("a step's time grows more than linearly for LoRA, query and value, LoRA")
    assert said["- **length**"].endswith("Twice the length takes 2.83 times as long.")
    assert said["- **rank**"] == (
        "a step's time grows less than linearly for LoRA, query and value, LoRA, all linear. "
        "Twice the rank takes 1.15 times as long."
    )
    assert "| 512 | full | 226.274 | 36 | 8192.0 | 36 | 9.00 |" in text


def test_the_picture_has_a_panel_for_each_axis(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from experiments.benchmarks.curves import plot

    plot(filled(), "bfloat16", tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 10_000
    plot(filled(), "float32", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_grid_has_each_point_once() -> None:
    points = grid(["bfloat16"], AXES)
    assert len(points) == len(set(points)) == 1 + 4 + 4 + 5 + 4
    assert points[0] == Point("bfloat16")
    assert [point.rank for point in axis_points("float32", "rank")] == [1, 4, 8, 16, 64, 256]
    assert sum(len(methods_at(point, METHODS)) for point in points) == 5 * (1 + 12) + 2 * 5
    assert len(grid(["bfloat16", "float32"], ["layers"])) == 10


def test_points_that_a_file_holds_are_left_out(tmp_path: Path) -> None:
    file, points = tmp_path / "scaling.json", grid(["bfloat16"], ["batch"])
    result = load(file, SETTINGS)
    add(result, points[0], {method: made_up(points[0], method) for method in METHODS})
    add(result, points[1], {"lora": made_up(points[1], "lora")})
    file.write_text(json.dumps(result))
    again = load(file, copy.deepcopy(SETTINGS))
    assert [missing(again, point, METHODS) for point in points[:3]] == [[], list(METHODS[1:]), list(METHODS)]
    assert missing(again, Point("float32"), METHODS) == list(METHODS)
    add(again, points[1], {"full": made_up(points[1], "full")})
    assert missing(again, points[1], ("lora", "full")) == []
    with pytest.raises(ValueError, match=r"scaling.json holds points of other settings.* width=768, the file has 384"):
        load(file, {**SETTINGS, "width": 768})


def test_lora_adds_six_operations_for_each_of_its_weights() -> None:
    encoder = Encoder(layers=6, width=384, inner=1536)
    weights = 6 * 8 * 2 * (384 + 384)  # rank 8 on query and value of six layers
    assert encoder.adapters("lora", 8) == weights
    assert flops_per_token(encoder, "lora", 64, 8) - flops_per_token(encoder, "lora", 64) == 6 * weights
    assert encoder.adapters("lora_all_linear", 1) == 6 * (4 * 2 * 384 + 2 * (384 + 1536))
    assert flops_per_token(encoder, "full", 64, 8) == flops_per_token(encoder, "full", 64)


def test_devices_are_known_by_name() -> None:
    names = [
        "NVIDIA H200",
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 PCIe",
        "NVIDIA A100-SXM4-40GB",
        "Tesla T4",
        "NVIDIA L4",
    ]
    assert [known_peak(name) for name in names] == [989e12, 989e12, 756e12, 312e12, 65e12, 121e12]
    assert known_peak("NVIDIA L40S") is None
    assert known_peak("cpu") is None


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_random_models_and_rows_fit_each_other(family: str, tmp_path: Path) -> None:
    encoder = Encoder(layers=12, width=768, inner=3072)
    config = read_config(write_config(tmp_path / "model", encoder, family=family, heads=12) / "config.json")
    assert (config.family, config.num_layers, config.max_length, config.activation) == (family, 12, 512, "gelu")
    write_rows(tmp_path / "rows.npz", random_rows(8, 20, family))
    rows = read_rows(str(tmp_path / "rows.npz"))
    assert rows.lengths.tolist() == [20] * 8
    assert (rows.segments is None) == (family == "roberta")
    assert 10 <= rows.tokens.min() < rows.tokens.max() < config.vocabulary_size
    assert set(np.unique(rows.labels)) <= {0, 1}


def test_what_does_not_fit_the_time_is_dropped() -> None:
    now = [0.0]
    done: list[tuple[str, float]] = []

    def measurement(name: str, kind: str, seconds: float) -> Measurement:
        def run(left: float) -> None:
            done.append((name, left))
            now[0] += seconds

        return Measurement(name, kind, run)

    plan = [
        measurement("a", "long", 40),
        measurement("b", "short", 10),
        measurement("c", "long", 30),
        measurement("d", "long", 5),  # may take 40 as far as is known, and 20 are left
        measurement("e", "short", 10),
        measurement("f", "short", 1),
    ]
    assert run_within(100, plan, lambda: now[0]) == ["d", "f"]
    assert done == [("a", 100), ("b", 60), ("c", 50), ("e", 20)]


class FakeContestant(Contestant):
    """Takes turns of 0.4 s a step on the clock of its own; one fails at its third turn, one at once."""

    def __init__(self, kind: Kind, options: dict[str, Any], **_: Any) -> None:
        self.kind, self.left, self.log = kind, options.get("turns", 99), options["log"]
        if not self.left:
            raise RuntimeError("no memory")

    def take_turn(self, steps: int) -> Turn:
        if not self.left:
            raise RuntimeError("no more")
        self.left -= 1
        self.log.append((self.kind.name, steps))
        return Turn(seconds=0.4 * steps, rows=4 * steps, tokens=40 * steps, peak_bytes=2**30, device_bytes=2**29)

    def __exit__(self, *_: object) -> None:
        self.log.append((self.kind.name, 0))


def test_contestants_take_turns_of_a_second_and_one_that_fails_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rounds, "Contestant", FakeContestant)
    log: list[tuple[str, int]] = []
    told: list[dict[str, Any]] = [{"log": log}, {"log": log, "turns": 3}, {"log": log, "turns": 0}]
    entries = [Entry(f"e{i}", Kind(f"k{i}", "", ""), options) for i, options in enumerate(told)]
    found = compete(entries, rounds=2, warm_steps=1, most_steps=8, at_once=1, peer_python=sys.executable, log=tmp_path)
    assert log == [("k0", 1), ("k1", 1), ("k0", 1), ("k1", 1), ("k0", 3), ("k1", 3), ("k0", 3), ("k1", 0), ("k0", 0)]
    assert found["e1"] == {"failed": "no more"}
    assert found["e2"] == {"failed": "no memory"}
    assert found["e0"]["seconds_per_step"] == pytest.approx(0.4)
    assert (found["e0"]["steps"], found["e0"]["device_gib"]) == (3, 0.5)
    assert [steps_of_turn(seconds, 5) for seconds in (0.01, 0.3, 4.0)] == [5, 4, 1]


def test_first_steps_that_are_to_be_alone_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    computing: list[str] = []
    together: list[set[str]] = []

    class Slow(FakeContestant):
        def take_turn(self, steps: int) -> Turn:
            computing.append(self.kind.name)
            time.sleep(0.05)
            together.append(set(computing))
            computing.remove(self.kind.name)
            return super().take_turn(steps)

    monkeypatch.setattr(rounds, "Contestant", Slow)
    entries = [Entry(name, Kind(name, "", ""), {"log": []}, alone=name != "free") for name in ("a", "b", "free")]
    compete(entries, rounds=1, warm_steps=1, most_steps=1, at_once=3, peer_python=sys.executable, log=tmp_path)
    assert not any({"a", "b"} <= names for names in together)
    assert any("free" in names and len(names) > 1 for names in together[:3])


def timings(folder: Path, seconds: list[float], rate: float) -> None:
    for seed, value in enumerate(seconds):
        (folder / f"seed={seed}").mkdir(parents=True)
        timing = {"train_seconds": value, "train_examples_per_second": rate}
        (folder / f"seed={seed}" / "result.json").write_text(json.dumps({"timing": timing}))


def test_the_rate_of_several_runs_is_of_all_their_rows(tmp_path: Path) -> None:
    timings(tmp_path, [2.0] * 8, 100.0)  # each says what it got of the shared time
    assert many_runs.rate(tmp_path, 8) == {"examples_per_second": 800.0}
    with pytest.raises(RuntimeError, match=r"3 runs left 8 files"):
        many_runs.rate(tmp_path, 3)


def test_runs_at_once_that_are_not_there_are_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        many_runs, "command", lambda *_: [sys.executable, "-c", "import sys; sys.exit('kpeft: no such')"]
    )
    found = many_runs.compare(tmp_path, 8, 60.0)
    assert found == {"failed": "--seed 0,1,2,3,4,5,6,7 ended with status 1: kpeft: no such"}


def test_only_a_single_run_is_told_when_to_save() -> None:
    single, together = (many_runs.command(Path("out"), seeds, 600) for seeds in ("0", "0,1"))
    assert single[single.index("--save-steps") + 1] == "6000"  # past the end
    assert "--save-steps" not in together
    options = make_parser().parse_args(single[3:])
    assert (options.max_steps, options.epochs, options.seed, options.offline) == (600, 10, 0, True)


def test_the_verdict_sets_targets_beside_outcomes() -> None:
    def contestant(*speeds: float) -> dict[str, Any]:
        turns = [Turn(seconds=128 / speed, rows=128, tokens=128 * 128, peak_bytes=2**30) for speed in speeds]
        return figures(turns, 1) | {"mfu": speeds[0] / 1000, "share_of_measured_peak": speeds[0] / 800}

    def at(batch: int, *ours: float) -> dict[str, Any]:
        kpeft, eager = KINDS[0].name, "PEFT bf16 autocast"
        found = {kpeft: contestant(*ours), eager: contestant(200, 200), COMPILED_PEER.name: {"failed": "no compiler"}}
        return {"model": "BERT", "method": "lora", "batch_size": batch, "contestants": found}

    result = {
        "device": "NVIDIA H200",
        "peak_flops": {"known": 989e12, "measured": 790e12, "used": 989e12},
        "measurements": [at(32, 400, 400), at(128, 240, 260)],
        "many_runs": {"times_as_fast": 3.5, "times_as_fast_command": 5.0},
        "dropped": ["RoBERTa bitfit"],
    }
    text = verdict(result)
    assert "MFU is of 989 TFLOP/s, the data sheet's" in text
    assert "| 128 | PEFT bf16 autocast | 200.0 | 25600 | 20.0% | 25.0% |  | 1.25 (1.20 to 1.30) |" in text
    assert "as fast as PEFT bf16 autocast: not reached (1 of 2); least 1.25 (BERT, LoRA, query and value, batch" in text
    assert "compiled: not measured" in text
    assert "MFU of at least 45% at batch 128: not reached (0 of 1); least 24.0%" in text
    assert "in turn: reached (1 of 1); least 3.50 (MiniLM), greatest 3.50; the command as a whole 5.00" in text
    assert "dropped for want of time: RoBERTa bitfit" in text
    assert text.count("compiled: no compiler") == 2

"""The benchmark: turns are counted and timed as said, ratios are of the same round, FLOPs are counted right."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.benchmarks import padding, setting, startup
from experiments.benchmarks.contestants import ABLATIONS, KINDS, Contestant, Kind, Turn, summary
from experiments.benchmarks.cost import Encoder, flops_per_token
from experiments.benchmarks.rows import write_rows
from experiments.benchmarks.tables import plot, ratio, startup_table, table
from experiments.benchmarks.turns import EVAL_BATCH
from experiments.benchmarks.turns import __file__ as turns_file
from kpeft.backbones.tokenizer_files import tokenizer_from_folder
from kpeft.glue.tokens import EncodedRows
from tests.training.small_model import make_model, make_rows

WORKER = """
import sys, time
from turns import Turns
turns = Turns()
turns.evaluate = lambda: time.sleep(0.5) or [0] * 7
turns.begin()
print("noise")
while turns.after_step(16, 100):
    time.sleep(0.02)
"""


def test_turns_are_counted_and_other_output_is_no_reply() -> None:
    asked = ({"steps": 2}, {"evaluate": True}, {"steps": 5})
    requests = "".join(json.dumps(request) + "\n" for request in asked)
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
    assert [(reply["rows"], reply.get("tokens")) for reply in replies[1:]] == [(32, 200), (7, None), (80, 500)]
    assert replies[3]["seconds"] >= 0.08
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
    assert len(set(names)) == len(names) == 13


def test_kpeft_starts_with_an_empty_folder_and_then_with_what_it_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_rows(tmp_path / "validation.npz", make_rows(5))
    seen: list[tuple[str, list[str]]] = []
    folders: list[Path] = []

    class Fake(Contestant):
        def __init__(self, kind: Kind, options: dict[str, Any], *, compiled: Path | None = None, **_: Any) -> None:
            assert compiled is not None
            seen.append((kind.name, [file.name for file in compiled.iterdir()]))
            folders.append(compiled)
            (compiled / "step").touch()
            self.kind, self.now = kind, 1.0 + len(seen)
            self.load_seconds = self.now

        def age(self) -> float:
            return self.now

        def take_turn(self, steps: int) -> Turn:
            assert steps == 1
            self.now += 2
            return Turn(seconds=2, rows=16, tokens=800, peak_bytes=0)

        def evaluate(self) -> int:
            self.now += 4
            return 5

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(startup, "Contestant", Fake)
    monkeypatch.setattr(setting, "worker_options", lambda *_: {"validation": str(tmp_path / "validation.npz")})
    names = ["kpeft float32", "PEFT float32"]
    options = argparse.Namespace(contestants=names, repeats=2, peer_python=sys.executable)
    found = startup.measure("lora", options, tmp_path)
    assert seen == [("kpeft float32", []), ("kpeft float32", ["step"]), ("PEFT float32", [])] * 2
    assert not any(folder.exists() for folder in folders)
    assert [list(found[name]) for name in names] == [["cold", "warm"], ["as it comes"]]
    assert found["kpeft float32"]["warm"]["first_evaluation"]["starts"] == [9, 12]
    text = startup_table({"methods": {"lora": found}}, ["lora"])
    line = "| LoRA, query and value | kpeft float32 | warm | 4.5 (3.0 to 6.0) | 6.5 (5.0 to 8.0) | 10.5 (9.0 to 12.0) |"
    assert line in text


def test_the_setting_names_the_task_its_rows_and_their_lengths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_preset: Path
) -> None:
    from kpeft import backbones
    from kpeft.experiment import EVAL_BATCH as OF_A_RUN

    tiny = argparse.Namespace(tokenizer=tokenizer_from_folder(tiny_preset, "bert"))
    monkeypatch.setattr(backbones, "load_backbone", lambda *_, **__: tiny)
    (tmp_path / "CoLA").mkdir()
    for name, number in (("train", 20), ("dev", 500)):
        lines = [f"gj04\t{i % 2}\t\t{'the ' * (1 + i % 5)}.\n" for i in range(number)]
        (tmp_path / "CoLA" / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["x", "--task", "cola", "--data-dir", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    options = startup.parse()
    assert options.output == Path("experiments/results/speed_cola")
    found = setting.describe(options, tmp_path)
    assert (found["task"], found["source"], found["rows"], found["validation"]["rows"]) == ("cola", "tsv", 20, 408)
    lengths = [3 + 1 + i % 5 for i in range(20)]  # with [CLS], the full stop and [SEP]
    assert found["tokens"] == {
        "mean": np.mean(lengths),
        "weighted": pytest.approx(np.mean(np.square(lengths)) / np.mean(lengths)),
        "p5": 4,
        "median": 6,
        "p95": 8,
        "longest": 8,
    }
    assert EVAL_BATCH == OF_A_RUN


def rows_with_segments(number: int) -> EncodedRows:
    rows = make_rows(number, longest=2)  # all of one length, so that no later step compiles
    return dataclasses.replace(rows, segments=np.zeros(len(rows.tokens), np.int8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kpeft float32", "PEFT bf16 autocast"])
def test_a_worker_evaluates_between_its_turns(
    name: str, tiny_preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(kind for kind in KINDS if kind.name == name)
    if kind.is_peer and not (importlib.util.find_spec("torch") and importlib.util.find_spec("peft")):
        pytest.skip("the peers are not installed")
    told: dict[str, Any] = {"method": "lora", "rank": 2, "batch_size": 4, "preset": str(tiny_preset)}
    told["random_weights"] = False
    for file, number in (("rows", 9), ("validation", EVAL_BATCH + 3)):
        write_rows(tmp_path / f"{file}.npz", rows_with_segments(number))
        told[file] = str(tmp_path / f"{file}.npz")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in conftest.py
    with Contestant(kind, told, peer_python=sys.executable, log=tmp_path / "log", compiled=tmp_path / "new") as worker:
        assert worker.take_turn(1).rows == 4
        assert worker.load_seconds < worker.age()
        assert worker.evaluate() == EVAL_BATCH + 3
        assert worker.take_turn(1).rows == 4
    assert kind.is_peer or any((tmp_path / "new").iterdir())


def test_kerashub_evaluates_amid_fit_and_trains_on_as_if_it_had_not() -> None:
    import keras

    from experiments.benchmarks.kerashub_worker import Batches, TakeTurns
    from experiments.benchmarks.turns import Turns

    class ThreeTurns(Turns):
        """Three turns of one step, with or without an evaluation after the second."""

        def __init__(self, evaluates: bool) -> None:
            self.evaluates, self.steps, self.logits = evaluates, 0, np.empty(0)

        def after_step(self, rows: int, tokens: int) -> bool:
            self.steps += 1
            if self.evaluates and self.steps == 2:
                self.logits = np.asarray(self.evaluate())
            return self.steps < 3

    rows, validation = make_rows(16), make_rows(EVAL_BATCH + 3, seed=1)

    def train(*, evaluates: bool, steps: int = 3) -> tuple[keras.Model, np.ndarray]:
        model, turns = make_model(), ThreeTurns(evaluates)
        turns.steps = 3 - steps
        model.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        batches = Batches(rows, 4, 40)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[TakeTurns(turns, batches, validation)])
        return model, turns.logits

    model, logits = train(evaluates=True)
    undisturbed, _ = train(evaluates=False)
    for ours, theirs in zip(model.weights, undisturbed.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    after_two, _ = train(evaluates=False, steps=2)
    expected = after_two.predict(validation.batch(range(len(validation)), 40), verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_positions_are_counted_batch_by_batch() -> None:
    lengths = np.array([3, 5, 6, 9] * 8)
    found = padding.positions(lengths, batch_size=4)
    # Sorted by length, each batch holds rows of one length; the lengths are padded to 4, 8 and 9, or to 8 and 9.
    tokens = 8 * (3 + 5 + 6 + 9)
    assert found["to each batch's longest row"] == 1
    assert found["as kpeft pads"] == 8 * (4 + 8 + 8 + 9) / tokens
    assert found["to multiples of 8"] == 8 * (8 + 8 + 8 + 9) / tokens

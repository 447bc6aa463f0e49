"""Which rows a run trains on, which it evaluates, and which choose the best evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_refused, history, result

from kpeft.backbones.loading import Backbone, load_backbone
from kpeft.config import DataConfig
from kpeft.data import Data, load_data, selection
from kpeft.glue.sample import SampleSource
from kpeft.glue.sources import open_source
from kpeft.glue.tasks import get_task
from kpeft.glue.tokens import EncodedRows

HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


@pytest.fixture(scope="module")
def backbone(tiny_preset: Path) -> Backbone:
    return load_backbone(str(tiny_preset), 2)


def load(backbone: Backbone, task: str = "mrpc", **options: Any) -> Data:
    return load_data(get_task(task), SampleSource(), backbone, DataConfig(offline=True, max_length=16, **options), 0)


def rows_of(rows: EncodedRows | None) -> list[bytes]:
    assert rows is not None
    return [rows.tokens[start:end].tobytes() for start, end in zip(rows.offsets, rows.offsets[1:], strict=False)]


def test_a_share_or_a_number_of_rows_is_held_out(backbone: Backbone) -> None:
    whole = rows_of(load(backbone).train)
    for holdout, count in ((0.1, 100), (37, 37)):
        data = load(backbone, holdout=holdout)
        trained, held = rows_of(data.train), rows_of(data.holdout)
        assert (len(trained), len(held)) == (1000 - count, count)
        assert sorted(trained + held) == sorted(whole)
        assert list(data.evaluated) == ["", "holdout"]
    few = load(backbone, holdout=0.1, limit=20)
    assert rows_of(few.holdout) == rows_of(load(backbone, holdout=0.1).holdout)
    assert rows_of(few.train) == rows_of(load(backbone, holdout=0.1).train)[:20]
    assert load(backbone).holdout is None
    with pytest.raises(ValueError, match="--holdout 1000 leaves no rows on one side: there are 1000 training rows"):
        load(backbone, holdout=1000)


def test_held_out_rows_choose(backbone: Backbone) -> None:
    task = get_task("mrpc")
    metrics = {"accuracy": 0.9, "f1": 0.7, "holdout/accuracy": 0.5, "holdout/f1": 0.1}
    assert selection(task, load(backbone))(metrics) == pytest.approx(0.8)
    assert selection(task, load(backbone, holdout=0.1))(metrics) == pytest.approx(0.3)
    metrics = {"matched/accuracy": 0.9, "mismatched/accuracy": 0.8, "holdout/accuracy": 0.5}
    assert selection(get_task("mnli"), load(backbone, "mnli", holdout=0.1))(metrics) == 0.5


def write_mrpc(folder: Path) -> Path:
    """A folder whose test rows have labels and are others than its validation rows."""
    (folder / "MRPC").mkdir()
    words = {"train.tsv": "abc", "dev.tsv": "de", "msr_paraphrase_test.txt": "fghi"}
    for name, firsts in words.items():
        lines = [f"{number % 2}\t1\t2\t{first} word\tother {first}\n" for number, first in enumerate(firsts)]
        (folder / "MRPC" / name).write_text(HEADER + "".join(lines), encoding="utf-8")
    return folder


def test_the_test_split_where_it_has_labels(backbone: Backbone, tmp_path: Path) -> None:
    source = open_source(data_dir=str(write_mrpc(tmp_path)))
    data = load_data(get_task("mrpc"), source, backbone, DataConfig(split="test", max_length=16), 0)
    np.testing.assert_array_equal(data.validation[""].labels, [0, 1, 0, 1])
    with pytest.raises(ValueError, match="--split test needs labels, and those of MRPC are not public in this source"):
        load(backbone, split="test")


def test_on_the_command_line(tmp_path: Path, kpeft_run: Run) -> None:
    folder = tmp_path / "run"
    assert kpeft_run("--holdout", "0.1", "--eval-steps", "1", "--output-dir", folder).status == 0
    ended = result(folder)
    assert {"accuracy", "holdout/accuracy", "holdout/f1"} <= ended["best"]["metrics"].keys()
    assert ended["config"]["data"]["holdout"] == 0.1
    scored = [line for line in history(folder) if "metrics" in line]
    means = [(line["metrics"]["holdout/accuracy"] + line["metrics"]["holdout/f1"]) / 2 for line in scored]
    assert (len(scored), ended["best"]["step"]) == (4, scored[int(np.argmax(means))]["step"])
    none = ("--output-dir", tmp_path / "none")
    assert_refused(kpeft_run(*none, "--split", "test"), "--split test needs labels")
    assert_refused(kpeft_run(*none, "--holdout", "1.5"), "holdout must be above 0, and below 1 or whole")
    assert not (tmp_path / "none").exists()

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from report_folders import MRPC, write_run

from kpeft.config import DataConfig, Distillation
from kpeft.methods import BitFit, DoRA, LoRA
from kpeft.report.collect import collect
from kpeft.report.groups import PATHS, Group, group, labels, spread, varying


def groups_of(folder: Path) -> list[Group]:
    return group(collect(folder).runs)


def test_mean_and_sample_deviation() -> None:
    found = spread([1.0, None, 2.0, 6.0])
    assert found is not None
    assert (found.mean, found.count) == (3.0, 3)
    assert found.std == pytest.approx((14 / 2) ** 0.5)
    one = spread([2.0])
    assert one is not None
    assert one.std is None
    assert spread([None]) is None


def test_runs_that_differ_in_the_seed_are_one_group(tmp_path: Path) -> None:
    accuracies = [0.7, 0.9, 0.74]
    for seed, accuracy in enumerate(accuracies):
        write_run(tmp_path / f"run{9 - seed}", scores={**MRPC, "accuracy": accuracy}, seed=seed)
    write_run(tmp_path / "other", learning_rate=3e-4)
    first, second = groups_of(tmp_path)
    assert [each.seeds for each in (first, second)] == [(0,), (0, 1, 2)]
    found = second.metric("accuracy", "last")
    assert found is not None
    assert found.mean == pytest.approx(statistics.mean(accuracies))
    assert found.std == pytest.approx(statistics.stdev(accuracies))
    own = second.own_score("last")
    assert own is not None
    assert own.mean == pytest.approx((statistics.mean(accuracies) + MRPC["f1"]) / 2)
    assert varying([first, second]) == ["learning_rate"]
    assert labels([first, second]) == ["lora, learning rate 0.0003", "lora, learning rate 0.001"]


def test_options_show_where_they_vary(tmp_path: Path) -> None:
    for number, method in enumerate((LoRA(rank=2), LoRA(rank=16), DoRA(rank=4), BitFit())):
        write_run(tmp_path / str(number), method, learning_rate=1e-3 * (1 + number // 2))
    groups = groups_of(tmp_path)
    assert varying(groups) == ["rank", "learning_rate"]
    assert labels(groups) == ["bitfit", "dora", "lora, rank 2", "lora, rank 16"]
    assert [each.option("rank") for each in groups] == [None, "4", "2", "16"]
    assert labels(groups, without=("rank",)) == ["bitfit", "dora", "lora", "lora"]


def test_what_learned_from_another_is_a_group_of_its_own(tmp_path: Path) -> None:
    write_run(tmp_path / "alone")
    write_run(tmp_path / "taught", distillation=Distillation(teacher="runs/full/adapter"))
    groups = groups_of(tmp_path)
    assert {"teacher", "distillation_weight", "temperature"} <= set(varying(groups))
    assert {each.option("teacher") for each in groups} == {"none", "runs/full/adapter"}


def test_tasks_and_presets_are_told_apart(tmp_path: Path) -> None:
    for preset in ("a", "b"):
        write_run(tmp_path / preset, preset=preset)
    write_run(tmp_path / "sst2", task="sst2")
    groups = groups_of(tmp_path)
    assert [each.task.name for each in groups] == ["sst2", "mrpc", "mrpc"]
    assert labels(groups[1:]) == ["lora on a", "lora on b"]


def test_options_of_later_versions_stand_at_their_defaults(tmp_path: Path) -> None:
    write_run(tmp_path / "new", seed=0)
    old = write_run(tmp_path / "old", seed=1) / "result.json"
    content = json.loads(old.read_text())
    for name in ("gated", "init", "lr_ratio"):
        del content["config"]["method"][name]
    content["config"]["method"]["alpha"] = 16
    del content["config"]["training"]["keep"]
    old.write_text(json.dumps(content))
    assert [each.seeds for each in groups_of(tmp_path)] == [(0, 1)]


def test_unknown_options_keep_runs_apart(tmp_path: Path) -> None:
    for number in range(2):
        path = write_run(tmp_path / str(number)) / "result.json"
        content = json.loads(path.read_text())
        content["config"]["method"]["new_field"] = number
        path.write_text(json.dumps(content))
    assert labels(groups_of(tmp_path)) == ["lora, new field 0", "lora, new field 1"]


def test_where_rows_lie_may_be_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "here", seed=0, data=DataConfig(data_dir="here"))
    write_run(tmp_path / "there", seed=1, data=DataConfig(data_dir="there"))
    runs = collect(tmp_path).runs
    assert len(group(runs)) == 2
    assert [each.seeds for each in group(runs, without=PATHS)] == [(0, 1)]


def test_seeds_with_a_teacher_each_are_one_group_and_what_is_not_there_is_not_named(tmp_path: Path) -> None:
    for seed in (1, 10):
        write_run(tmp_path / f"lora-{seed}", seed=seed)
        for name in ("a", "b"):
            taught = Distillation(teacher=f"runs/{name}/seed={seed}/adapter")
            write_run(tmp_path / f"{name}-{seed}", seed=seed, distillation=taught)
    groups = group(collect(tmp_path).runs)
    assert [each.seeds for each in groups] == [(1, 10)] * 3
    plain, first, second = sorted(labels(groups), key=len)
    assert plain == "lora"
    assert first.startswith("lora, teacher runs/a/seed=…/adapter, ")
    assert second.startswith("lora, teacher runs/b/seed=…/adapter, ")

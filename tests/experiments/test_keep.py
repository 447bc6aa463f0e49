"""What is kept of runs: results and evaluations as they are, the page's curves, nothing of a run that has not ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from report_folders import HARDWARE, write_run

from experiments import keep
from kpeft.report.answer import table_of, write_answer
from kpeft.report.collect import Collection, collect
from kpeft.report.curves import loss_figures
from kpeft.report.document import Table
from kpeft.report.groups import group, labels


def curves(collection: Collection) -> list[Table]:
    groups = group(collection.runs)
    return [figure.data for figure in loss_figures(groups, labels(groups))]


def test_the_page_of_what_was_kept_is_the_page_of_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for seed in (0, 1):
        losses = [round(float(each), 6) for each in random.uniform(0.1, 0.9, 130 - 40 * seed)]
        run = write_run(tmp_path / f"runs/lora/seed={seed}", seed=seed, losses=losses, hardware=HARDWARE)
        (run / "adapter").mkdir()
        (run / "adapter" / "adapter_model.safetensors").write_bytes(b"large")
    listed = [{"folder": f"seed={seed}", "status": "finished", "error": None} for seed in (0, 1)]
    (tmp_path / "runs/lora/runs.json").write_text(json.dumps({"schema": 1, "runs": listed}))
    write_answer(tmp_path / "runs", table_of("Which?", ["method"], [["lora"]]))
    (tmp_path / "runs/broken-off").mkdir()
    (tmp_path / "runs/broken-off/history.jsonl").write_text('{"step": 1, "epoch": 0.5, "loss": 0.5}\n')
    monkeypatch.setattr(sys, "argv", ["keep", str(tmp_path / "runs"), str(tmp_path / "kept")])

    assert keep.main() == 0

    files = {str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*.json*")}
    names = ("result.json", "hardware.json", "history.jsonl")
    assert files == {f"lora/seed={n}/{name}" for n in (0, 1) for name in names} | {"lora/runs.json", "answer.json"}
    assert not list((tmp_path / "kept").rglob("*.safetensors"))
    assert "report.md" in {path.name for path in (tmp_path / "kept").iterdir()}
    whole, kept = (collect(tmp_path / name) for name in ("runs", "kept"))
    assert whole.answer == kept.answer is not None
    assert [run.at_once for run in kept.runs] == [True, True]
    for before, after in zip(whole.runs, kept.runs, strict=True):
        assert (before.result, before.hardware, before.evaluations) == (after.result, after.hardware, after.evaluations)
        np.testing.assert_allclose(after.losses[0][1], np.mean([loss for _, loss in before.losses[:3]]), atol=1e-5)
    assert [(len(run.losses), run.losses[-1][0]) for run in kept.runs] == [(44, 130), (30, 90)]  # of 3 steps in both
    assert len(curves(whole)) == 2
    assert curves(whole) == curves(kept)


def test_a_damaged_history_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/a")
    run = write_run(tmp_path / "runs/b", seed=1)
    for line in ('{"step": 5, "los', "5", '{"step": 5}'):
        (run / "history.jsonl").write_text('{"step": 4, "epoch": 1.0, "loss": 0.5}\n' + line)
        with pytest.raises(ValueError, match=r"b/history.jsonl has a damaged line"):
            keep.keep(tmp_path / "runs", tmp_path / "kept")
        assert not (tmp_path / "kept").exists()


def test_what_is_kept_goes_to_a_folder_apart(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/a", losses=[0.5] * 200)
    before = (run / "history.jsonl").read_text()
    for source, target in (("runs", "runs"), ("runs", "runs/kept"), ("runs/a", "runs")):
        with pytest.raises(ValueError, match="one is in the other"):
            keep.keep(tmp_path / source, tmp_path / target)
    assert (run / "history.jsonl").read_text() == before


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keep", str(tmp_path / "runs"), str(tmp_path / "kept")])
    (tmp_path / "runs").mkdir()
    assert keep.main() == 2
    assert "holds no run to show" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["keep", str(tmp_path / "runs")])
    assert keep.main() == 2
    assert capsys.readouterr().err == "experiments: the following arguments are required: TO. --help shows all.\n"
    assert not (tmp_path / "kept").exists()

"""Runs side by side, and what an interrupt does to them."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from experiments.runs import Job, run_all

CHILD = """#!/bin/sh
trap 'echo interrupted > "{folder}/$3"; exit 130' TERM
echo begun > "{folder}/$3"
while :; do sleep 0.05; done
"""


def run_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str = CHILD) -> None:
    """Lets a script stand for Python; its third argument is a job's name."""
    child = tmp_path / "child"
    child.write_text(script.format(folder=tmp_path))
    child.chmod(0o755)
    monkeypatch.setattr("experiments.runs.sys.executable", str(child))


def test_an_interrupt_reaches_the_runs_and_no_other_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_children(tmp_path, monkeypatch)

    def interrupt() -> None:
        while not all((tmp_path / name).exists() for name in ("a", "b")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest's own workers ignore it
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_all([Job(name, [name]) for name in ("a", "b", "c")], side_by_side=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["interrupted\n"] * 2
    assert not (tmp_path / "c").exists()


def test_an_interrupt_while_runs_are_submitted_reaches_those_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool(ThreadPoolExecutor):
        def submit(self, function: Any, job: Job, *arguments: Any) -> Any:  # type: ignore[override]
            if job.name == "b":
                while not (tmp_path / "a").exists():
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return super().submit(function, job, *arguments)

    run_children(tmp_path, monkeypatch)
    monkeypatch.setattr("experiments.runs.ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        run_all([Job("a", ["a"]), Job("b", ["b"])], side_by_side=2)
    assert (tmp_path / "a").read_text() == "interrupted\n"
    assert not (tmp_path / "b").exists()


def test_a_run_does_not_begin_before_what_it_needs_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("experiments.runs.sys.executable", "/bin/true")
    (tmp_path / "there.json").touch()
    jobs = [Job("a", [], tmp_path / "there.json"), Job("b", [], tmp_path / "mnli" / "result.json")]
    assert run_all(jobs, side_by_side=1) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "a: done" in first
    assert f"b: not begun, for the run of {tmp_path / 'mnli'} has not ended" in second


REFUSING = """#!/bin/sh
echo "$3" >> "{folder}/begun"
case "$3" in
  refused*) sleep 0.2; echo "kpeft: no preset of that name" >&2; exit 2;;
  other) echo "kpeft: another mistake" >&2; exit 2;;
  failed) exit 1;;
esac
"""


@pytest.mark.parametrize("side_by_side", [1, 2])
def test_runs_that_are_refused_alike_do_not_keep_coming(
    side_by_side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_children(tmp_path, monkeypatch, REFUSING)
    names = [f"refused-{number}" for number in range(20)]
    with pytest.raises(ValueError, match="first two runs of 20 are refused, so no other begins"):
        run_all([Job(name, [name]) for name in names], side_by_side)
    begun = (tmp_path / "begun").read_text().splitlines()
    assert {"refused-0", "refused-1"} <= set(begun)
    assert len(begun) < 20
    assert re.search(
        r"^2/20 refused-1: failed with status 2 in \d+ s: kpeft: no preset of that name$", capsys.readouterr().err, re.M
    )


@pytest.mark.parametrize("names", [["refused", "other"], ["refused", "good"], ["good", "refused"], ["failed"] * 2])
def test_other_failures_do_not_stop_the_runs_behind_them(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_children(tmp_path, monkeypatch, REFUSING)
    jobs = [Job(name, [name]) for name in [*names, "refused", "refused", "good"]]
    assert run_all(jobs, side_by_side=1) == 2 + sum(name != "good" for name in names)
    assert len((tmp_path / "begun").read_text().splitlines()) == 5

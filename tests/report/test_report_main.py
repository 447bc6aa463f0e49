"""The command: what it prints, writes and refuses."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import Outcome, assert_refused, contents
from report_folders import write_run

from kpeft.methods import BitFit
from kpeft.report.__main__ import main


class Report:
    """Runs the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Outcome:
        return Outcome(main([*map(str, arguments)]), *self._capsys.readouterr())


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    return Report(capsys)


def test_page_and_markdown_go_into_the_folder(report: Report, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    before = contents(tmp_path)
    outcome = report(tmp_path)
    paths = [tmp_path / "report.html", tmp_path / "report.md"]
    assert outcome == Outcome(0, "".join(f"{path}\n" for path in paths), "")
    new = contents(tmp_path).keys() - before.keys()
    pictures = {name for name in new if name.startswith("report-pictures/")}
    assert new - pictures == {"report.html", "report.md"}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)) == pictures != set()
    for name in pictures:
        assert ElementTree.parse(tmp_path / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    written = contents(tmp_path)
    (tmp_path / "report-pictures" / "99-of-an-older-report.svg").write_text("")
    assert report(tmp_path).status == 0
    assert contents(tmp_path) == written


def test_output_and_evaluation(report: Report, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "run", best={"accuracy": 0.25})
    assert report(tmp_path / "runs", "--output", tmp_path / "new" / "place", "--evaluation", "best").status == 0
    assert "chosen on the rows that it is reported on" in (tmp_path / "new" / "place" / "report.html").read_text(
        encoding="utf-8"
    )
    assert not (tmp_path / "runs" / "report.html").exists()


def test_two_folders(report: Report, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name / "run")
    assert report("--compare", tmp_path / "a", tmp_path / "b").status == 0
    assert "A is a, B is b." in (tmp_path / "b" / "comparison.md").read_text(encoding="utf-8")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["run"]


def test_damaged_runs_are_named_on_standard_error_and_on_the_page(report: Report, tmp_path: Path) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "newer", BitFit())
    content = json.loads((tmp_path / "newer" / "result.json").read_text())
    (tmp_path / "newer" / "result.json").write_text(json.dumps({**content, "schema": 2}))
    (write_run(tmp_path / "torn") / "result.json").write_text('{"schema": 1, "ta')
    outcome = report(tmp_path)
    assert outcome.status == 0
    newer, torn = outcome.err.splitlines()
    assert newer == f"kpeft: {tmp_path.name}: newer: left out. result.json is no result of schema 1."
    assert torn.startswith(f"kpeft: {tmp_path.name}: torn: left out. result.json cannot be read")
    for name in ("report.html", "report.md"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert "newer: left out. result.json is no result of schema 1." in page
        assert "good" in page


@pytest.mark.parametrize("content", [None, '{"schema": 2}', "{"])
def test_a_folder_without_a_run_is_refused_and_left_alone(report: Report, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    before = contents(tmp_path)
    assert_refused(report(tmp_path), str(tmp_path), "holds no run to show", "result.json")
    assert contents(tmp_path) == before


def test_what_is_no_folder_is_refused(report: Report, tmp_path: Path) -> None:
    file = write_run(tmp_path / "run") / "result.json"
    assert_refused(report(tmp_path / "gone"), "gone' does not exist", "give a folder")
    assert_refused(report(file), "result.json' is a file", "give a folder")
    assert_refused(report("--compare", tmp_path, tmp_path / "gone"), "gone' does not exist")
    assert_refused(report(tmp_path, "--output", file), "--output", "name a folder")
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize(
    "arguments", [[], ["a", "--compare", "b", "c"], ["--compare", "a"], ["a", "--evaluation", "all"], ["a", "--x"]]
)
def test_bad_usage_is_one_line(report: Report, arguments: list[str]) -> None:
    assert_refused(report(*arguments))


def test_without_matplotlib_the_extra_is_named(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    real = builtins.__import__

    def none(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", none)
    assert_refused(report(tmp_path), "pip install kpeft[experiments]")
    assert not (tmp_path / "report.html").exists()


def test_a_disk_that_is_full_is_no_bad_usage(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kpeft.report.__main__.write_bytes", full)
    assert_refused(report(tmp_path), "No space left", status=1)

"""The README is true: its tree, its table of methods, its commands and its Python."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kpeft.glue.tasks import TASKS
from kpeft.listing import TRAINABLE
from kpeft.methods import METHODS
from kpeft.run import make_configs, make_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("#")[0].partition("python -m kpeft.run ")[2].strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    if "kpeft.run" in line
]


def tree() -> dict[str, str]:
    """Returns the role of each file in the README's tree, by path."""
    block = next(code for _, code in BLOCKS if code.startswith("kpeft/\n"))
    roles: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, role = line.strip().partition(" ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            roles["/".join([*folders, name])] = role.strip()
    return roles


def test_the_tree_names_every_file_of_the_package_once() -> None:
    named = {path for path in tree() if path.startswith("kpeft/")}
    assert named == {path.relative_to(ROOT).as_posix() for path in (ROOT / "kpeft").rglob("*.py")}


def test_every_other_file_in_the_tree_exists_and_every_module_has_a_role() -> None:
    assert all((ROOT / path).is_file() for path in tree())
    assert [path for path, role in tree().items() if not role and not path.endswith("__init__.py")] == []


def test_the_methods_and_their_counts_are_the_table() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|", README, re.MULTILINE)
    counts = {name: (int(bert.replace(",", "")), int(roberta.replace(",", ""))) for name, _, bert, roberta in rows}
    assert counts == TRAINABLE
    assert {name: cls for name, cls, *_ in rows} == {name: cls.__name__ for name, cls in METHODS.items()}


def test_the_table_of_tasks_is_complete() -> None:
    table = README.partition("| task | rows are")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(TASKS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    if command in ("--list", "--help"):
        assert command in make_parser().format_help()
        return
    configs = make_configs(make_parser().parse_args(shlex.split(command)))
    assert all(config.task in command for config in configs)


def test_there_is_one_command_to_run_and_one_to_test() -> None:
    lines = [line for _, code in BLOCKS for line in code.splitlines() if line.startswith("pip install uv && uv run ")]
    assert ["--offline" in line for line in lines] == [True, False]
    assert ["pytest" in line for line in lines] == [False, True]


@pytest.mark.parametrize("code", PYTHON, ids=["encoder", "layers", "named"])
def test_the_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_licence_is_apache() -> None:
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence

"""What a process settles before Keras: the backend, memory pages, the place for compiled code."""

from __future__ import annotations

import os
import platform
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NoReturn

import pytest

from kpeft import runtime


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("GLIBC_TUNABLES", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "jax")


def test_compiled_code_goes_to_the_users_cache_folder_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime.prepare()
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]).parent == tmp_path / "kpeft"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    runtime.prepare()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"


def test_each_processor_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = runtime.compilation_cache()
    monkeypatch.setattr(runtime, "processor", lambda: ("another", ""))
    assert runtime.compilation_cache() != here


def test_another_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ValueError, match="KERAS_BACKEND=torch"):
        runtime.prepare()


class Restarted(Exception):  # noqa: N818  (it is no error)
    pass


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    calls: list[list[str]] = []

    def execv(program: str, arguments: list[str]) -> NoReturn:
        assert program == arguments[0] == sys.executable
        calls.append(arguments)
        raise Restarted

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "kpeft.run", "--task", "mrpc"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("kpeft.run", None))
    pages = tmp_path / "enabled"
    pages.write_text("always [madvise] never\n")
    monkeypatch.setattr(runtime, "_PAGES", pages)
    return calls


def test_it_restarts_once_and_keeps_other_tunables(monkeypatch: pytest.MonkeyPatch, restarts: list[list[str]]) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    with pytest.raises(Restarted):
        runtime.restart_with_large_pages()
    assert restarts[0][1:] == sys.orig_argv[1:]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"
    runtime.restart_with_large_pages()
    assert len(restarts) == 1


@pytest.mark.parametrize("started_as", [["python", "train.py"], ["python", "-"], ["python", "-m", "another"]])
def test_it_does_not_restart_another_program(
    monkeypatch: pytest.MonkeyPatch, restarts: list[list[str]], started_as: list[str]
) -> None:
    monkeypatch.setattr(sys, "orig_argv", started_as)
    runtime.restart_with_large_pages()
    assert restarts == []


def test_a_user_without_a_home_folder_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    runtime.prepare()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("libc", [("glibc", "2.31"), ("musl", "1.2"), ("", "")])
def test_it_does_not_restart_where_malloc_cannot_ask(
    monkeypatch: pytest.MonkeyPatch, restarts: list[list[str]], libc: tuple[str, str]
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    runtime.restart_with_large_pages()
    assert restarts == []


@pytest.mark.parametrize("pages", ["[always] madvise never", "always madvise [never]", None])
def test_it_does_not_restart_where_the_kernel_needs_no_asking(restarts: list[list[str]], pages: str | None) -> None:
    if pages is None:
        runtime._PAGES.unlink()
    else:
        runtime._PAGES.write_text(pages)
    runtime.restart_with_large_pages()
    assert restarts == []

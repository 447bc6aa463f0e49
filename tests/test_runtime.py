"""What a process settles before Keras: the backend, memory, the place for compiled code."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kpeft import runtime


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
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


def test_a_user_without_a_home_folder_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    runtime.prepare()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize(("call", "kept"), [("runtime.keep_memory()", True), ("", False)])
def test_freed_memory_is_used_again_without_page_faults(call: str, kept: bool) -> None:
    program = f"""
import ctypes, resource
from kpeft import runtime
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(256 << 20)
    ctypes.memset(block, 1, 256 << 20)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, second = faults(), faults()
print(second < first / 4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(kept)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    runtime.keep_memory()


def test_a_note_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("kpeft")
    for _ in range(2):
        with runtime.notes_on_stdout():
            for number in (1, 2, 1):
                logger.warning("note %d", number)
    assert capsys.readouterr().out == "note 1\nnote 2\n" * 2


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal")
def test_signals_interrupt_unless_they_are_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup themselves
    try:
        with pytest.raises(KeyboardInterrupt), runtime.as_interrupts(signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with runtime.as_interrupts(signal.SIGHUP):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

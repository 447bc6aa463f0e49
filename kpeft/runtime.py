"""What a process settles before it imports Keras and JAX: backend, memory, compiled code, signals, notes.

`kpeft.run` does this for itself; scripts that import kpeft may call `prepare()` first. Nothing here imports either.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

# mallopt's options, from glibc's malloc.h: nothing gets a mapping of its own; nothing at the heap's end is given back;
# and all threads share one heap, since only the first can grow to any size.
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -4, -1, -8


def prepare() -> None:
    """Puts Keras on JAX, whatever keras.json says, and keeps compiled code between processes and memory between steps.

    Raises:
        ValueError: If KERAS_BACKEND names another backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "jax"
    if backend != "jax":
        raise ValueError(f"kpeft runs on JAX, but KERAS_BACKEND={backend}: unset it or set it to jax.")
    os.environ["KERAS_BACKEND"] = "jax"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(RuntimeError):  # a user without a home folder compiles anew
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache())
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    keep_memory()


def compilation_cache() -> Path:
    """The folder for compiled code: in the user's cache folder, one for each kind of processor.

    It may be deleted at any time. Code compiled for one processor may not run on another, and a home folder may be
    shared by several, so the folder's name carries a digest of the processor's features.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256(" ".join([platform.machine(), *processor()]).encode()).hexdigest()
    return Path(home) / "kpeft" / f"jax-{digest[:12]}"


def processor() -> tuple[str, str]:
    """The processor's name and, on Linux, its features, separated by spaces."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}  # of the last core
    return named.get("model name") or platform.processor() or platform.machine(), named.get("flags", "")


def keep_memory() -> None:
    """Lets malloc keep the memory that XLA frees, where the C library is glibc.

    XLA's CPU client allocates its working memory anew at every step. glibc returns such large pieces to the kernel at
    once, so each step would pay for a page fault every 4 KiB, and for zeros that nobody reads. What a step used stays
    with the process from now on.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        libc.mallopt(option, value)


@contextmanager
def as_interrupts(*numbers: signal.Signals) -> Iterator[None]:
    """Within the context signals interrupt as Ctrl-C does, but for those that are ignored, as SIGHUP under nohup."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    taken = {each: signal.signal(each, interrupt) for each in numbers if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for each, previous in taken.items():
            signal.signal(each, previous)


@contextmanager
def notes_on_stdout() -> Iterator[None]:
    """Standard error is for the one line that says what went wrong, and for progress. A note is printed once."""
    handler, seen = logging.StreamHandler(sys.stdout), set[str]()

    def is_new(record: logging.LogRecord) -> bool:  # several runs at once load a model for each seed
        number = len(seen)
        seen.add(record.getMessage())
        return len(seen) > number

    handler.addFilter(is_new)
    logging.getLogger("kpeft").addHandler(handler)
    logging.getLogger("absl").setLevel(logging.ERROR)  # tfds warns of what it then does
    try:
        yield
    finally:
        logging.getLogger("kpeft").removeHandler(handler)


def is_refusal(error: ValueError) -> bool:
    """Whether a `raise` in kpeft's code made the error, for the user; any other is a defect and keeps its traceback.

    The file alone would not do: an unpacking that fails and what C code raises have no deeper frame than kpeft's, and
    Keras cuts its own frames out of tracebacks.
    """
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(innermost.filename).is_relative_to(Path(__file__).parent)
    return ours and (innermost.line or "").startswith("raise ")

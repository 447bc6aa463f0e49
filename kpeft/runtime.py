"""What a process settles before it imports Keras and JAX: the backend, memory pages, where compiled code is kept.

`kpeft.run` does this for itself; scripts that import kpeft may call `prepare()` first. Nothing here imports either.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path

_TUNABLE = "glibc.malloc.hugetlb"
_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def prepare() -> None:
    """Puts Keras on JAX, whatever keras.json says, and keeps compiled code between processes.

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
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


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


def restart_with_large_pages() -> None:
    """Starts a `python -m` program anew, as the same process, with malloc asking for large memory pages.

    Returns if that is not needed, or if this program was not started as `python -m`: another may have done things, or
    read its own text from standard input, and must not run twice.

    XLA takes and gives back its working memory at every step. Where the kernel gives large pages only to those who ask
    (`madvise`), each step then pays for a page fault every 4 KiB. glibc 2.35 and later ask if told to, but only at the
    start of a program.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in tunables or not (_is_module() and _glibc_can_ask() and _kernel_waits_to_be_asked()):
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_module() -> bool:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and sys.orig_argv[1:3] == ["-m", spec.name]


def _glibc_can_ask() -> bool:
    name, version = platform.libc_ver()
    numbers = version.split(".")
    return name == "glibc" and all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) >= (2, 35)


def _kernel_waits_to_be_asked() -> bool:
    try:
        return "[madvise]" in _PAGES.read_text(encoding="ascii")
    except OSError:
        return False

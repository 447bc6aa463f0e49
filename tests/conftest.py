"""What all tests share: JAX as the backend, quick compilation, and where real data and goldens are."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"

import tempfile
from pathlib import Path

import jax
import pytest

# Tiny models compile in a quarter of the time; what is compared is the same. What is compiled is kept for the session,
# as many tests build the same model.
jax.config.update("jax_disable_most_optimizations", True)
_CACHE = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Folder of real GLUE rows, named by KPEFT_GLUE_DIR."""
    return _folder("KPEFT_GLUE_DIR")


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    """Folder with peft_goldens and train_goldens, named by KPEFT_GOLDENS_DIR."""
    return _folder("KPEFT_GOLDENS_DIR")


def _folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])

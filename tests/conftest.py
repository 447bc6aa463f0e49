"""What all tests share: JAX as the backend, quick compilation, and where real data and goldens are."""

from __future__ import annotations

import gc
import os

os.environ["KERAS_BACKEND"] = "jax"

import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import Outcome, Run, basic_arguments, run_in_process

# Tiny models compile in a quarter of the time; what is compared is the same. What is compiled is kept for the session,
# as many tests build the same model.
jax.config.update("jax_disable_most_optimizations", True)
_CACHE = tempfile.TemporaryDirectory()
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True, scope="module")
def _little_memory() -> Iterator[None]:
    """Forgets what a module has compiled, which is on disk for the next one that needs it: it fills gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def _same_random_numbers(request: pytest.FixtureRequest) -> None:
    """Lets a module's generator begin anew, so that a test has the same numbers whatever its worker ran before."""
    for value in vars(request.module).values():
        if isinstance(value, np.random.Generator):
            seeds = value.bit_generator.seed_seq
            assert isinstance(seeds, np.random.SeedSequence)
            value.bit_generator.state = np.random.PCG64(seeds).state


@pytest.fixture(scope="session")
def glue_dir() -> Path:
    """Folder of real GLUE rows, named by KPEFT_GLUE_DIR."""
    return _folder("KPEFT_GLUE_DIR")


@pytest.fixture(scope="session")
def goldens_dir() -> Path:
    """Folder with peft_goldens and train_goldens, named by KPEFT_GOLDENS_DIR."""
    return _folder("KPEFT_GOLDENS_DIR")


@pytest.fixture(scope="session")
def peers_python() -> str:
    """A Python with torch, transformers and peft, named by KPEFT_PEERS_PYTHON."""
    return str(_folder("KPEFT_PEERS_PYTHON"))


def _folder(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder that `--preset` takes."""
    from tiny_preset import write_preset

    return write_preset(tmp_path_factory.mktemp("presets") / "tiny")


@pytest.fixture(scope="session")
def finished_run(tiny_preset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of `basic_arguments`."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run_in_process([*basic_arguments(tiny_preset), "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def kpeft_run(tiny_preset: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `basic_arguments` with others after them."""

    def run(*arguments: str | Path) -> Outcome:
        status = run_in_process([*basic_arguments(tiny_preset), *map(str, arguments)])
        return Outcome(status, *capsys.readouterr())

    return run

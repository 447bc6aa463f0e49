"""Starting the contestants, and giving each its turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kind:
    """Who competes.

    Attributes:
        name: What to call it.
        module: Its worker.
        precision: `"float32"` or `"bfloat16"`.
        keras_layers: For kpeft's worker: leave the encoder's layers as KerasHub made them.
        own_malloc: For kpeft's worker: leave malloc as the system has it.
        eights: For kpeft's worker: pad to multiples of 8.
        compile: For Hugging Face's worker: `torch.compile` the model.
    """

    name: str
    module: str
    precision: str
    keras_layers: bool = False
    own_malloc: bool = False
    eights: bool = False
    compile: bool = False

    @property
    def is_peer(self) -> bool:
        """Whether it runs in the peers' environment."""
        return self.module == "huggingface_worker"


KINDS = (
    Kind("kpeft bfloat16", "kpeft_worker", "bfloat16"),
    Kind("kpeft float32", "kpeft_worker", "float32"),
    Kind("PEFT bf16 autocast", "huggingface_worker", "bfloat16"),
    Kind("PEFT float32", "huggingface_worker", "float32"),
    Kind("KerasHub", "kerashub_worker", "float32"),
)
COMPILED_PEER = Kind("PEFT bf16 autocast, compiled", "huggingface_worker", "bfloat16", compile=True)
# kpeft without one or both of what makes it fast, to see what each is worth.
ABLATIONS = tuple(
    Kind(f"kpeft {precision}, {text}", "kpeft_worker", precision, **switches)
    for precision in ("bfloat16", "float32")
    for text, switches in {
        "malloc as it is": {"own_malloc": True},
        "Keras's layers": {"keras_layers": True},
        "malloc and layers as they are": {"own_malloc": True, "keras_layers": True},
        "padded to eights": {"eights": True},
    }.items()
)


@dataclass(frozen=True)
class Turn:
    """What one turn came to: real rows and tokens trained on, in so many seconds; the peaks of memory so far."""

    seconds: float
    rows: int
    tokens: int
    peak_bytes: int
    device_bytes: int = 0


def summary(turns: list[Turn]) -> dict[str, Any]:
    """Medians of a contestant's turns."""
    speeds = [turn.rows / turn.seconds for turn in turns]
    return {
        "examples_per_second": statistics.median(speeds),
        "tokens_per_second": statistics.median(turn.tokens / turn.seconds for turn in turns),
        "peak_gib": max(turn.peak_bytes for turn in turns) / 2**30,
        "turns": speeds,
    }


class Contestant:
    """A worker process that trains one method, and only when it is its turn.

    Args:
        kind: Who it is.
        options: What its worker is told: method, rank, rows, validation rows if it is to evaluate, batch size, longest
            row, preset folder, and whether the weights are random, with only the folder's config.json read.
        peer_python: Interpreter of the peers' environment.
        log: Where what it prints goes.
        compiled: Folder for compiled code, in place of the usual one.
    """

    def __init__(
        self, kind: Kind, options: dict[str, Any], *, peer_python: str, log: Path, compiled: Path | None = None
    ) -> None:
        self.kind = kind
        self._log = log
        self._started = time.perf_counter()
        python = peer_python if kind.is_peer else sys.executable
        switches = {
            "precision": kind.precision,
            "keras_layers": kind.keras_layers,
            "own_malloc": kind.own_malloc,
            "eights": kind.eights,
            "compile": kind.compile,
        }
        told = json.dumps(options | switches)
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # all may keep their compiled modules
        if compiled is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
        if kind.module == "kerashub_worker":  # as it comes, it keeps no compiled code
            environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [python, "-m", f"experiments.benchmarks.{kind.module}", told],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._read()
        self.load_seconds = self.age()

    def age(self) -> float:
        """Seconds since its process was started."""
        return time.perf_counter() - self._started

    def take_turn(self, steps: int) -> Turn:
        """Lets it train for so many steps."""
        self._write({"steps": steps})
        return Turn(**self._read())

    def evaluate(self) -> int:
        """Lets it compute the logits of the validation rows, after its first turn; returns how many there were."""
        self._write({"evaluate": True})
        return int(self._read()["rows"])

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"{self.kind.name} ended with status {self._process.wait()}: {' '.join(end)}")
        value: dict[str, Any] = json.loads(line)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        with self._process:  # closes its pipes
            self._process.wait()

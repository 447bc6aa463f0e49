"""Several runs of `kpeft.run` at once against as many in turn, through the command line."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_RUNS, _IN_TURN, _BATCH, _ROWS = 8, 3, 16, 1000


def compare(scratch: Path, steps: int, seconds: float) -> dict[str, Any]:
    """Trains MiniLM with LoRA on the bundled sample, 8 seeds in one process and then some of them one by one.

    Runs one by one are all alike, so three of them stand for eight.

    Args:
        scratch: Folder for what the runs leave.
        steps: Of each run.
        seconds: When to give up.

    Returns:
        `together` and `single`: examples a second of training by all runs (compilation and evaluation left out) and
        seconds of the command; `times_as_fast` and `times_as_fast_command`, of eight in turn. Or `{"failed": why}`.
    """
    end = time.monotonic() + seconds
    try:
        together = _run(scratch / "together", ",".join(map(str, range(_RUNS))), steps, end)
        singles = [_run(scratch / f"single{seed}", str(seed), steps, end) for seed in range(_IN_TURN)]
    except RuntimeError as error:
        return {"failed": str(error)}
    single = {name: statistics.median(run[name] for run in singles) for name in singles[0]}
    return {
        "runs": _RUNS,
        "batch_size": _BATCH,
        "steps": steps,
        "together": together,
        "single": single,
        "times_as_fast": together["examples_per_second"] / single["examples_per_second"],
        "times_as_fast_command": _RUNS * single["command_seconds"] / together["command_seconds"],
    }


def command(output: Path, seeds: str, steps: int) -> list[str]:
    """The command of one process; it evaluates once, at the end."""
    options: dict[str, Any] = {
        "task": "mrpc",
        "method": "lora",
        "precision": "bfloat16",
        "seed": seeds,
        "batch-size": _BATCH,
        "epochs": math.ceil(steps / (_ROWS // _BATCH)),
        "max-steps": steps,
        "eval-steps": steps,
        "output-dir": output,
    }
    if "," not in seeds:  # runs at once save no checkpoints, so a single one is not to spend time on them
        options["save-steps"] = 10 * steps
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-m", "kpeft.run", "--offline", *flags]


def _run(output: Path, seeds: str, steps: int, end: float) -> dict[str, float]:
    begun = time.monotonic()
    try:
        ran = subprocess.run(
            command(output, seeds, steps), capture_output=True, text=True, errors="replace", timeout=max(end - begun, 1)
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"--seed {seeds} did not end in the time that was left") from None
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"--seed {seeds} ended with status {ran.returncode}: {' '.join(last)}")
    return rate(output, seeds.count(",") + 1) | {"command_seconds": time.monotonic() - begun}


def rate(output: Path, runs: int) -> dict[str, float]:
    """Examples a second of all runs in a folder: their rows over the longest of their training times.

    Raises:
        RuntimeError: If there is not one result.json for each run, or training took no time that counts.
    """
    files = sorted(output.rglob("result.json"))
    if len(files) != runs:
        raise RuntimeError(f"{runs} runs left {len(files)} files result.json")
    timings = [json.loads(file.read_text(encoding="utf-8"))["timing"] for file in files]
    rows = sum(timing["train_examples_per_second"] * timing["train_seconds"] for timing in timings)
    seconds = max(timing["train_seconds"] for timing in timings)
    if not rows:
        raise RuntimeError("every step was the first of its length: more steps are needed")
    return {"examples_per_second": rows / seconds}

"""Several runs trained at once against the same runs one after the other, from start to end.

    python -m experiments.benchmarks.at_once --data-dir GLUE_FOLDER --task mrpc --seed 0,1,2,3,4

Both are what a user would start, `python -m kpeft.run` in a process of its own: one command with lists, and one command
for each run. Start-up, loading, compilation and evaluation count. In each round the two take turns, the first of them
changing; a ratio is of one round. Compiled code is kept in a folder of this benchmark's own. With `--cache cold` it is
empty when each side begins: of the runs in turn, the later find what the earlier compiled, as a user's would. With
`--cache warm` an unmeasured round has filled it. Flags that are not the benchmark's own go to `kpeft.run`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.contestants import ROOT
from experiments.benchmarks.setting import machine
from kpeft.files import write_json
from kpeft.results import installed_versions

LISTS = ("seed", "learning-rate", "rank")


def main() -> None:
    options, given = parse()
    several = {name: getattr(options, name.replace("-", "_")) for name in LISTS}
    several = {name: values for name, values in several.items() if values}
    together = [[*given, *(text for name, values in several.items() for text in (f"--{name}", values))]]
    alone = [
        [*given, *(text for name, value in zip(several, values, strict=True) for text in (f"--{name}", value))]
        for values in itertools.product(*(values.split(",") for values in several.values()))
    ]
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.cache == "warm":
            for commands in (together, alone):
                seconds(commands, Path(scratch), cold=False)
        for number in range(options.repeats):
            turns = {"at_once": together, "in_turn": alone}
            order = list(turns) if number % 2 == 0 else list(turns)[::-1]
            rounds.append({name: seconds(turns[name], Path(scratch), cold=options.cache == "cold") for name in order})
            sys.stdout.write(f"{rounds[-1]}\n")
    ratios = [each["in_turn"] / each["at_once"] for each in rounds]
    result: dict[str, Any] = {
        "command": given,
        "lists": several,
        "runs": len(alone),
        "cache": options.cache,
        "rounds": rounds,
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)},
        "machine": machine(),
        "versions": installed_versions(),
    }
    write_json(options.output, result)
    ratio = f"{statistics.median(ratios):.2f} times as fast as in turn ({min(ratios):.2f} to {max(ratios):.2f})"
    sys.stdout.write(f"{len(alone)} runs at once, {options.cache} compile cache: {ratio}\n")


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.at_once", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--seed", default="0,1,2,3,4", help="(default 0,1,2,3,4)")
    parser.add_argument("--learning-rate", help="several, such as 1e-3,3e-4")
    parser.add_argument("--rank", help="several, such as 4,8")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--preset", default="minilm")
    parser.add_argument("--cache", choices=("cold", "warm"), default="cold")
    parser.add_argument("--repeats", type=int, default=1, help="rounds (default 1)")
    parser.add_argument("--output", type=Path, default=Path("experiments/results/at_once/at_once.json"))
    options, given = parser.parse_known_args()
    return options, [*(f"--{name}={getattr(options, name)}" for name in ("task", "method", "preset")), *given]


def seconds(commands: list[list[str]], scratch: Path, *, cold: bool) -> float:
    """Wall-clock seconds of some commands, one after the other."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        cache = Path(folder) / "compiled" if cold else scratch / "compiled"
        begun = time.perf_counter()
        for number, command in enumerate(commands):
            ran = subprocess.run(
                [sys.executable, "-m", "kpeft.run", *command, "--output-dir", f"{folder}/{number}"],
                cwd=ROOT,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
                capture_output=True,
                text=True,
                check=False,
            )
            if ran.returncode:
                raise RuntimeError(f"kpeft.run {' '.join(command)} ended with status {ran.returncode}: {ran.stderr}")
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()

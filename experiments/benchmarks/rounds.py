"""Contestants that load side by side and then take turns, each for about a second."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from experiments.benchmarks.contestants import Contestant, Kind, Turn, summary

_TURN_SECONDS = 1.0


@dataclass(frozen=True)
class Entry:
    """Who takes part.

    Attributes:
        name: What to call it among the others.
        kind: Its worker.
        options: What the worker is told; see `Contestant`.
        alone: Whether its first steps wait for those of others that are alone, too: on a GPU, XLA chooses kernels by
            their time.
    """

    name: str
    kind: Kind
    options: dict[str, Any]
    alone: bool = False


def compete(
    entries: list[Entry],
    *,
    rounds: int,
    warm_steps: int,
    most_steps: int,
    at_once: int,
    peer_python: str,
    log: Path,
) -> dict[str, dict[str, Any]]:
    """Lets contestants train in turn.

    They load, compile and do their first `warm_steps` side by side. A turn of as many steps each then decides how many
    the timed turns have: those that fill a second, from one to `most_steps`.

    Args:
        entries: The contestants.
        rounds: Timed turns of each.
        warm_steps: See above.
        most_steps: Steps of a turn at most.
        at_once: How many load at the same time.
        peer_python: Interpreter of the peers' environment.
        log: Folder for what contestants print.

    Returns:
        By entry: `summary` of its turns with their `steps`, `seconds_per_step` and, on an accelerator, `device_gib`;
        or `{"failed": why}`. The others go on without one that failed.
    """
    results: dict[str, dict[str, Any]] = {}
    lock = Lock()
    with ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:

        def load(number: int, entry: Entry) -> Contestant:
            contestant = Contestant(entry.kind, entry.options, peer_python=peer_python, log=log / f"{number}.log")
            stack.enter_context(contestant)
            with lock if entry.alone else nullcontext():
                contestant.take_turn(warm_steps)
            return contestant

        loading = {entry.name: pool.submit(load, number, entry) for number, entry in enumerate(entries)}
        wait(loading.values())  # none computes while another still compiles
        turns: dict[str, list[Turn]] = {entry.name: [] for entry in entries}
        steps = dict.fromkeys(turns, warm_steps)
        for number in range(rounds + 1):
            for name in [name for name in turns if name not in results]:
                try:
                    turn = loading[name].result().take_turn(steps[name])
                except (RuntimeError, OSError) as error:
                    results[name] = {"failed": str(error)}
                    continue
                if number:
                    turns[name].append(turn)
                else:
                    steps[name] = steps_of_turn(turn.seconds / steps[name], most_steps)
    return {name: results.get(name) or figures(turns[name], steps[name]) for name in turns}


def steps_of_turn(seconds: float, most: int) -> int:
    """Steps of a turn that takes about a second, where a step takes so many seconds."""
    return max(1, min(most, math.ceil(_TURN_SECONDS / seconds)))


def figures(turns: list[Turn], steps: int) -> dict[str, Any]:
    """What is written down of a contestant's turns of so many steps."""
    result = summary(turns)
    rows = turns[0].rows / steps
    result |= {"steps": steps, "seconds_per_step": rows / result["examples_per_second"]}
    device = max(turn.device_bytes for turn in turns)
    return result | ({"device_gib": device / 2**30} if device else {})

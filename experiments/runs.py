"""Runs of `kpeft.run`, several side by side, each on its share of the cores."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: What to call it.
        flags: Of `python -m kpeft.run`.
    """

    name: str
    flags: list[str]


def run_all(jobs: list[Job], side_by_side: int) -> int:
    """Runs jobs and says on standard error how each ended; a failed one does not stop the others.

    Ctrl-C reaches the runs, too, which save where they are; no other begins then.

    Args:
        jobs: In the order in which they begin.
        side_by_side: How many at a time.

    Returns:
        How many failed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(side_by_side):
        shares.put(cores[number::side_by_side])
    with ThreadPoolExecutor(side_by_side) as pool:
        ends = [pool.submit(_run, job, f"{number}/{len(jobs)}", shares) for number, job in enumerate(jobs, 1)]
        try:
            return sum(end.result() != 0 for end in ends)
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run(job: Job, number: str, shares: queue.SimpleQueue[list[int]]) -> int:
    share, begun = shares.get(), time.monotonic()
    if share:
        os.sched_setaffinity(0, share)  # of this thread, and so of what it starts
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "kpeft.run", *job.flags], capture_output=True, text=True, errors="replace"
        )
    finally:
        shares.put(share)
    last = (ran.stderr if ran.returncode else ran.stdout).strip().splitlines()[-2:]
    outcome = f"failed with status {ran.returncode}" if ran.returncode else "done"
    seconds = time.monotonic() - begun
    sys.stderr.write(f"{number} {job.name}: {outcome} in {seconds:.0f} s: {' | '.join(last)}\n")
    sys.stderr.flush()
    return ran.returncode

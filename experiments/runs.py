"""Runs of `kpeft.run`, several side by side, each on its share of the cores."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REFUSED = 2  # the exit status of bad usage or input


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: What to call it.
        flags: Of `python -m kpeft.run`.
        needs: A file of another run, without which this one does not begin.
    """

    name: str
    flags: list[str]
    needs: Path | None = None


def run_all(jobs: list[Job], side_by_side: int) -> int:
    """Runs jobs and says on standard error how each ended; a failed one does not stop the others.

    But where the first two are refused with the same words, it is for what all have in common, such as a preset that
    is not there. (A single run's words go to the terminal, if there is one, and are not compared.) An interrupt is
    passed on to the runs, which save where they are; no other begins then.

    Args:
        jobs: In the order in which they begin.
        side_by_side: How many at a time.

    Returns:
        How many failed.

    Raises:
        ValueError: If the first two are refused so; no other begins then.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    running = _Running(shown=side_by_side == 1 and sys.stderr.isatty())
    for number in range(side_by_side):
        running.shares.put(cores[number::side_by_side])
    with ThreadPoolExecutor(side_by_side) as pool:
        try:  # around submit, too: the first runs are under way before the last is submitted
            ends = [pool.submit(_run, job, f"{number}/{len(jobs)}", running) for number, job in enumerate(jobs, 1)]
            first = [end.result() for end in ends[:2]]
            if len(first) == 2 and first[0] == first[1] and first[0].status == REFUSED:
                raise ValueError(f"the first two runs of {len(jobs)} are refused, so no other begins.")
            return sum(end.result().status != 0 for end in ends)
        except (KeyboardInterrupt, ValueError):
            pool.shutdown(wait=False, cancel_futures=True)
            running.interrupt()
            raise


@dataclass(frozen=True)
class _End:
    """How a run ended: its exit status, and the last it said, if that did not go to the terminal."""

    status: int
    said: str = ""


class _Running:
    """The processes that run.

    Args:
        shown: Let their progress and errors go to the terminal.

    Attributes:
        shares: The cores of those that do not yet.
    """

    def __init__(self, *, shown: bool) -> None:
        self._stderr = None if shown else subprocess.PIPE
        self.shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._interrupted = False

    def start(self, flags: list[str]) -> subprocess.Popen[str]:
        """Starts a run in a session of its own: a terminal's Ctrl-C would reach it beside ours."""
        with self._lock:
            process = subprocess.Popen(
                [sys.executable, "-m", "kpeft.run", *flags],
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._processes.add(process)
            if self._interrupted:
                process.send_signal(signal.SIGTERM)
            return process

    def interrupt(self) -> None:
        """Interrupts all runs, once. By SIGTERM: what a shell starts in the background ignores SIGINT."""
        with self._lock:
            self._interrupted = True
            for process in self._processes:
                process.send_signal(signal.SIGTERM)


def _run(job: Job, number: str, running: _Running) -> _End:
    if job.needs is not None and not job.needs.exists():
        sys.stderr.write(f"{number} {job.name}: not begun, for the run of {job.needs.parent} has not ended\n")
        return _End(1)
    share, begun = running.shares.get(), time.monotonic()
    if share:
        os.sched_setaffinity(0, share)  # of this thread, and so of what it starts
    try:
        with running.start(job.flags) as process:
            out, err = process.communicate()
    finally:
        running.shares.put(share)
    said = " | ".join(((err or "") if process.returncode else out).strip().splitlines()[-2:])
    outcome = f"failed with status {process.returncode}" if process.returncode else "done"
    seconds = time.monotonic() - begun
    sys.stderr.write(f"{number} {job.name}: {outcome} in {seconds:.0f} s: {said}\n")
    sys.stderr.flush()
    return _End(process.returncode, said)

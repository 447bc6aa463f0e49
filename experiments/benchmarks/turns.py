"""What a contestant does between its steps: count them, say how long a turn took, and wait for the next.

Requests and replies are lines of JSON: `{"steps": 8}` is a turn of so many steps, `{"evaluate": true}`, between turns,
an evaluation of the validation rows.
Contestants run at the same time but never compute at the same time: each waits at its standard input for its turn.
Only the standard library is used, since Hugging Face's side runs without kpeft.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sized
from pathlib import Path

# Rows of a batch in an evaluation, as kpeft.run has it.
EVAL_BATCH = 64


def peak_bytes() -> int:
    """Peak resident memory of this program alone: the system's usual figure keeps that of who started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Turns:
    """The contestant's side.

    Args:
        wait: Returns when all steps so far are done on the device.
        device_bytes: Peak memory used on the device, 0 where that is the program's own.

    Attributes:
        wait: See above.
        evaluate: Gives the logits of all validation rows; set once there is something to evaluate.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None, device_bytes: Callable[[], int] = lambda: 0) -> None:
        self.wait = wait
        self.evaluate: Callable[[], Sized] = tuple
        self._device_bytes = device_bytes
        self._replies = sys.stdout
        sys.stdout = sys.stderr  # what libraries print is no reply
        self._left = 0
        self._rows = 0
        self._tokens = 0
        self._since = 0.0
        self._excluded = 0.0

    def begin(self) -> None:
        """Says that everything is loaded, and waits for the first turn."""
        self._reply({"ready": True})
        self._next()

    def exclude(self, seconds: float, rows: int, tokens: int) -> None:
        """Leaves time, and what was done in it, out of the present turn: compilation after the first."""
        self._excluded += seconds
        self._rows -= rows
        self._tokens -= tokens

    def after_step(self, rows: int, tokens: int) -> bool:
        """Counts a step of so many real rows and real tokens; returns whether to go on."""
        self._left -= 1
        self._rows += rows
        self._tokens += tokens
        if self._left > 0:
            return True
        self.wait()
        seconds = time.perf_counter() - self._since - self._excluded
        self._reply(
            {
                "seconds": seconds,
                "rows": self._rows,
                "tokens": self._tokens,
                "peak_bytes": peak_bytes(),
                "device_bytes": self._device_bytes(),
            }
        )
        return self._next()

    def _next(self) -> bool:
        while "evaluate" in (request := self._request()):
            self._reply({"rows": len(self.evaluate())})
        self._left = request.get("steps", 0)
        self._rows = self._tokens = 0
        self._excluded = 0.0
        self._since = time.perf_counter()
        return self._left > 0

    def _request(self) -> dict[str, int]:
        """Waits for the next request; nothing is asked for once whoever asks is gone."""
        line = sys.stdin.readline()
        request: dict[str, int] = json.loads(line) if line.strip() else {}
        return request

    def _reply(self, value: dict[str, object]) -> None:
        self._replies.write(json.dumps(value) + "\n")
        self._replies.flush()

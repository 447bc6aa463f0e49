"""history.jsonl: one JSON line for each step and each evaluation, as they happen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, final

_FLUSH_SECONDS = 1.0


@final
class History:
    """A JSON-lines file. Lines hold nothing that differs between two runs alike, such as times.

    Args:
        path: The file, or `None` to keep no history.
        length: Bytes of an older history to keep; what comes after is cut off.
    """

    def __init__(self, path: Path | None, *, length: int = 0) -> None:
        self._file: IO[bytes] | None = None
        self._flushed = time.monotonic()
        if path is None:
            return
        if length and (not path.is_file() or path.stat().st_size < length):
            raise ValueError(f"{path} lacks lines that were there when the checkpoint was saved; train without resume")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("r+b" if length else "wb")
        self._file.seek(length)
        self._file.truncate()

    def write(self, line: Mapping[str, object], *, flush: bool = False) -> None:
        """Adds a line.

        Args:
            line: What it holds.
            flush: Write it through now, not within a second.
        """
        if self._file is None:
            return
        self._file.write(json.dumps(line).encode() + b"\n")
        if flush or time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()

    def length(self) -> int:
        """Bytes written so far."""
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

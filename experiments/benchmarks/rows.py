"""The rows that all contestants train on, as token ids in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kpeft.glue.tokens import EncodedRows


def write_rows(path: Path, rows: EncodedRows) -> None:
    """Writes rows; `offsets[i]:offsets[i + 1]` are the tokens of row i."""
    assert rows.segments is not None
    np.savez(
        path, tokens=rows.tokens, segments=rows.segments, offsets=rows.offsets, labels=rows.labels, pad_id=rows.pad_id
    )


def read_rows(path: str) -> EncodedRows:
    """Reads what `write_rows` wrote."""
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in ("tokens", "segments", "offsets", "labels")}
        return EncodedRows(**columns, pad_id=int(arrays["pad_id"]))

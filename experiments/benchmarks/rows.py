"""The rows that all contestants train on, as token ids in one file: real ones, or random ones of one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.random_model import FAMILIES
from kpeft.glue.tokens import EncodedRows


def write_rows(path: Path, rows: EncodedRows) -> None:
    """Writes rows; `offsets[i]:offsets[i + 1]` are the tokens of row i. Rows without segments have none in the file."""
    names = ("tokens", "offsets", "labels", "pad_id", *(() if rows.segments is None else ("segments",)))
    arrays: dict[str, Any] = {name: getattr(rows, name) for name in names}
    np.savez(path, **arrays)


def read_rows(path: str) -> EncodedRows:
    """Reads what `write_rows` wrote."""
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in ("tokens", "offsets", "labels")}
        segments = arrays.get("segments")
        return EncodedRows(**columns, segments=segments, pad_id=int(arrays["pad_id"]))


def random_rows(number: int, length: int, family: str) -> EncodedRows:
    """Rows of one length for a model of `random_model.write_config`, with random tokens and two classes."""
    rng = np.random.default_rng(0)
    config = FAMILIES[family]
    return EncodedRows(
        tokens=rng.integers(10, config["vocab_size"], number * length, dtype=np.int32),  # past the special ones
        segments=np.zeros(number * length, np.int8) if config["type_vocab_size"] > 1 else None,
        offsets=np.arange(number + 1, dtype=np.int64) * length,
        labels=rng.integers(0, 2, number, dtype=np.int32),
        pad_id=config["pad_token_id"],
    )

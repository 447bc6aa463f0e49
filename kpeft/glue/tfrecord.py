"""Reading TFRecord files without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct("<QI")
_FOOTER = 4


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    A record is its length (uint64, little endian), a checksum of the length (uint32), the bytes, and a checksum of
    the bytes (uint32). The checksums are not verified.

    Raises:
        ValueError: If the file ends inside a record.
    """
    data = memoryview(path.read_bytes())
    offset = 0
    while offset < len(data):
        start = offset + _HEADER.size
        end = start + _HEADER.unpack_from(data, offset)[0] if start <= len(data) else start
        offset = end + _FOOTER
        if offset > len(data):
            raise ValueError(f"{path} is cut off or damaged: a record ends at byte {offset} of {len(data)}.")
        yield bytes(data[start:end])

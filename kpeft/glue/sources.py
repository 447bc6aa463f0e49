"""Where GLUE rows come from: a folder of TSV files, tfds, or the bundled sample."""

from __future__ import annotations

from kpeft.glue.rows import HIDDEN, Rows, Source
from kpeft.glue.sample import SampleSource
from kpeft.glue.tfds import TfdsSource
from kpeft.glue.tsv import TsvSource

__all__ = ["HIDDEN", "Rows", "SampleSource", "Source", "TfdsSource", "TsvSource", "open_source"]


def open_source(*, data_dir: str | None = None, tfds_dir: str | None = None, offline: bool = False) -> Source:
    """Opens the source that a run asks for.

    Args:
        data_dir: A folder of GLUE's TSV files; goes before everything else.
        tfds_dir: Where tfds keeps its datasets, `None` for its default folder.
        offline: Touch no network: the bundled sample, unless `data_dir` is given.

    Raises:
        ValueError: If `data_dir` is not a folder, or the arguments contradict each other.
    """
    if tfds_dir is not None and (offline or data_dir is not None):
        other = "--offline" if data_dir is None else "--data-dir"
        raise ValueError(f"--tfds-dir and {other} are two sources of rows; give one. Received: tfds_dir={tfds_dir!r}")
    if data_dir is not None:
        return TsvSource(data_dir)
    return SampleSource() if offline else TfdsSource(tfds_dir)

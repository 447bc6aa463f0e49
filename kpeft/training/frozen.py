"""What to train where the lower layers of a model are frozen, so that they compute each row once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import keras
import psutil

from kpeft.config import TrainingConfig
from kpeft.frontier import split
from kpeft.glue.tokens import EncodedRows
from kpeft.training.batches import RowSource
from kpeft.training.features import FrozenPart, FrozenRows
from kpeft.training.loop import make_plan

logger = logging.getLogger("kpeft")

# One part in so many of the memory that is free is for features.
_SHARE_OF_MEMORY = 4

_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def trained_part(
    model: keras.Model, train_rows: EncodedRows, validation: Mapping[str, EncodedRows], config: TrainingConfig
) -> tuple[keras.Model, EncodedRows | FrozenRows, Mapping[str, RowSource]]:
    """What to give `train` and `predict_logits` in place of a model and its rows.

    Layers below everything that trains run without dropout, as a feature extractor does. In a run of more than one
    epoch their outputs, the features, are computed once and kept, if all of them fit in a quarter of the memory that
    is available, or of a container's limit. Otherwise they are computed in each step, with the same result up to
    rounding. Where no block is frozen (see `kpeft.frontier.split`), the model and the rows are given back as they are.

    Args:
        model: The model, with its method on it.
        train_rows: The training rows.
        validation: Validation rows by name.
        config: How it will be trained.

    Returns:
        A model with the trained variables of `model`, its training rows, and its validation rows by name.
    """
    parts = split(model)
    if parts is None or not len(train_rows):
        return model, train_rows, validation
    plan, frozen = make_plan(config, len(train_rows)), FrozenPart(parts)
    needed = sum(frozen.bytes_of(rows) for rows in (train_rows, *validation.values()))
    allowed = memory_for_use() // _SHARE_OF_MEMORY
    if plan.total_steps <= plan.steps_per_epoch:
        return parts.joined, train_rows, validation
    if needed > allowed:
        logger.warning(
            "keeping what the frozen layers compute would take %.1f GiB, which is more than a quarter of the "
            "memory available here (%.1f GiB): they compute each row anew in every epoch.",
            needed / 2**30,
            allowed / 2**30,
        )
        return parts.joined, train_rows, validation
    kept = {name: FrozenRows(rows, frozen) for name, rows in validation.items()}
    return parts.upper, FrozenRows(train_rows, frozen), kept


def memory_for_use() -> int:
    """Bytes available on the machine, or the limit of a control group that the process is in, if that is less.

    A container, or a scheduler's job, may be held to less than the machine has: by memory.max in control groups of
    version 2, memory.limit_in_bytes in version 1, of its own group or one above it.
    """
    limits = [psutil.virtual_memory().available]
    for line in _text(_OWN_GROUPS).splitlines():  # hierarchy:controllers:path; version 2 names no controllers
        _, controllers, path = line.split(":", 2)
        root, name = (_GROUPS / "memory", "memory.limit_in_bytes") if controllers else (_GROUPS, "memory.max")
        if controllers and "memory" not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        limits += [int(text) for folder in (group, *group.parents) if (text := _text(folder / name)).isdecimal()]
    return min(limits)


def _text(file: Path) -> str:
    """What a file of the kernel's says; "" where it is not there."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

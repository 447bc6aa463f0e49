"""What to train where the lower layers of a model are frozen, so that they compute each row once."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import keras
import psutil

from kpeft.config import TrainingConfig
from kpeft.frontier import split
from kpeft.glue.tokens import EncodedRows
from kpeft.training.batches import RowSource
from kpeft.training.features import FrozenPart, FrozenRows
from kpeft.training.loop import make_plan

logger = logging.getLogger("kpeft")

# One part in so many of the machine's memory is for features.
_SHARE_OF_MEMORY = 4


def trained_part(
    model: keras.Model, train_rows: EncodedRows, validation: Mapping[str, EncodedRows], config: TrainingConfig
) -> tuple[keras.Model, EncodedRows | FrozenRows, Mapping[str, RowSource]]:
    """What to give `train` and `predict_logits` in place of a model and its rows.

    Layers below everything that trains run without dropout, as a feature extractor does. In a run of more than one
    epoch their outputs, the features, are computed once and kept, if all of them fit in a quarter of the machine's
    memory. Otherwise they are computed in each step, with the same result up to rounding. Where no block is frozen
    (see `kpeft.frontier.split`), the model and the rows are given back as they are.

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
    allowed = psutil.virtual_memory().total // _SHARE_OF_MEMORY
    if plan.total_steps <= plan.steps_per_epoch:
        return parts.joined, train_rows, validation
    if needed > allowed:
        logger.warning(
            "keeping what the frozen layers compute would take %.1f GiB, which is more than a quarter of this "
            "machine's memory (%.1f GiB): they compute each row anew in every epoch.",
            needed / 2**30,
            allowed / 2**30,
        )
        return parts.joined, train_rows, validation
    kept = {name: FrozenRows(rows, frozen) for name, rows in validation.items()}
    return parts.upper, FrozenRows(train_rows, frozen), kept

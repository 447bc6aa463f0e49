"""Labels for training that hold what a teacher says of each row."""

from __future__ import annotations

import dataclasses

import numpy as np

from kpeft.adapter_files import find_adapter
from kpeft.adapters import load_adapter
from kpeft.backbones.loading import load_backbone
from kpeft.config import RunConfig
from kpeft.glue.tasks import Task
from kpeft.glue.tokens import EncodedRows
from kpeft.training import predict_logits
from kpeft.warm_start import said_of


def with_teacher(rows: EncodedRows, task: Task, config: RunConfig, dtype: str, batch_size: int) -> EncodedRows:
    """Returns training rows whose labels are what `DistillationLoss` takes, or for a regression the mixed targets.

    The teacher sees each row once, without dropout, and is gone afterwards.

    Args:
        rows: The rows with their own labels.
        task: Their task.
        config: The run, with its `distillation`.
        dtype: Dtype policy of the teacher's arithmetic.
        batch_size: Rows of a batch.

    Raises:
        ValueError: If the teacher is of another task or preset, or does not fit the model or the rows.
    """
    distillation = config.distillation
    assert distillation is not None
    folder = find_adapter(distillation.teacher).config.parent
    for name, wanted in {"task": task.name, "preset": config.preset}.items():
        found = said_of(folder, name)
        if found not in (None, wanted):
            raise ValueError(f"--teacher {distillation.teacher} is of {name} {found}, and the run's is {wanted}.")
    backbone = load_backbone(config.preset, task.num_classes, seed=0, dtype=dtype)
    teacher = load_adapter(backbone.classifier, distillation.teacher)
    positions = teacher.method.positions
    if positions + rows.lengths.max(initial=0) > backbone.max_length:
        raise ValueError(
            f"--teacher {distillation.teacher} has {positions} virtual tokens, which with rows of "
            f"{rows.lengths.max()} tokens are more than its {backbone.max_length} positions: lower --max-length."
        )
    logits = predict_logits(teacher.model, rows, batch_size)
    if task.regression:
        own = rows.labels.astype(np.float32)
        return dataclasses.replace(rows, labels=own + np.float32(distillation.weight) * (logits[:, 0] - own))
    return dataclasses.replace(rows, labels=np.concatenate([rows.labels[:, None], logits], axis=1, dtype=np.float32))

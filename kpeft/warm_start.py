"""Starting from the adapter of another task, as LoRA's authors start MRPC, RTE and STS-B from MNLI's (Hu et al., 2021,
https://arxiv.org/abs/2106.09685).
"""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from kpeft.adapter_files import find_adapter
from kpeft.adapters import adapter_labels
from kpeft.glue.tasks import Task
from kpeft.results import FILE

logger = logging.getLogger("kpeft")


def choose_head(model: Any, adapter: str, task: Task) -> str:
    """Returns whether to `"keep"` or `"drop"` the head of an adapter to start from, and says so if it is dropped.

    It is dropped where it is for another number of labels, or result.json beside the adapter's folder names another
    task. A task that is only predicted needs it.

    Args:
        model: The model to start on.
        adapter: Where the adapter is, as `load_adapter` takes it.
        task: What the run is about.
    """
    labels = adapter_labels(model, adapter)
    if task.train is None or labels is None:
        return "keep"
    trained_on = said_of(find_adapter(adapter).config.parent, "task")
    if labels == task.num_classes and trained_on in (None, task.name):
        return "keep"
    logger.warning(
        "--adapter %s: its head, of %d labels%s, is left out; the run starts with the model's own.",
        *(adapter, labels, f" of {trained_on}" if trained_on else ""),
    )
    return "drop"


def said_of(folder: Path, name: str) -> str | None:
    """Returns the `"task"` or `"preset"` of the run that an adapter's folder is from, or `None` if there is no run."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        value = json.loads((folder.absolute().parent / FILE).read_text(encoding="utf-8")).get(name)
        return value if isinstance(value, str) else None
    return None

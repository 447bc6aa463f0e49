"""The classification head among an adapter's tensors: which they are, and for how many labels."""

from __future__ import annotations

import re

from kpeft.adapters.folder import Tensors
from kpeft.sites import Layout
from kpeft.targets import head_layers, named_layers


def head_keys(layout: Layout, tensors: Tensors) -> set[str]:
    """Returns the keys of the head's tensors, under structural paths or Hugging Face PEFT's names."""
    head = head_layers(layout)
    named = named_layers(layout)
    tops = {named[path].hugging_face.partition(".")[0] for path in head if path in named}
    return {key for key in tensors if key.rpartition("/")[0] in head or _module(key).partition(".")[0] in tops}


def label_count(layout: Layout, tensors: Tensors) -> int | None:
    """Returns the number of labels that the head among the tensors is for, or `None` where there is no head."""
    for path, layer in named_layers(layout).items():
        if layer.place.keras == "logits":
            keys = [key for key in tensors if key == f"{path}/bias" or _module(key) == f"{layer.hugging_face}.bias"]
            return tensors[keys[0]].size if keys else None
    return None


def _module(key: str) -> str:
    return re.sub(r"^base_model\.(model\.)?", "", key)

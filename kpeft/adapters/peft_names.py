"""From Keras variables to the tensors of a Hugging Face PEFT file, and back: names and shapes.

A Hugging Face linear layer holds W as (out, in); Keras holds (in, out), with the in or out axis of attention layers
split into heads. Transposing and reshaping goes both ways.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpeft.sites import Layout
from kpeft.targets import NamedLayer, named_layers

BASE = "base_model.model."
_NAMES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
_OF_ADAPTERS = {
    "lora_a": "lora_A.weight",
    "lora_b": "lora_B.weight",
    "lora_bias": "lora_B.bias",
    "magnitude": "lora_magnitude_vector",
}
# Factors (r, in), whose other axis is a rank; of all other matrices, attention's split axis is an output's.
_READ_INPUTS = ("lora_A.weight", "lora_A", "hada_w1_b", "hada_w2_b")


@dataclass(frozen=True)
class PeftName:
    """Where a Keras variable lies in a PEFT file.

    Attributes:
        key: The tensor's key.
        transposed: Whether the tensor is a matrix (out, in); else it only has other axes.
        shape: The axes of a tensor that is not transposed, as for `reshape`.
    """

    key: str
    transposed: bool
    shape: tuple[int, ...] = (-1,)


def peft_name(path: str, layers: Mapping[str, NamedLayer], adapted: Iterable[str]) -> PeftName | None:
    """Returns the PEFT name of a variable, or `None` where Hugging Face's model has no such tensor.

    Args:
        path: The variable's structural path.
        layers: The named layers of the model.
        adapted: Paths of the layers with LoRA or DoRA.
    """
    layer, _, variable = path.rpartition("/")
    if layer not in layers:
        return None
    module = BASE + layers[layer].hugging_face
    if variable in _OF_ADAPTERS:
        return PeftName(f"{module}.{_OF_ADAPTERS[variable]}", variable in ("lora_a", "lora_b"))
    if variable not in _NAMES:
        return None
    inner = ".base_layer" if layer in adapted else ""
    return PeftName(f"{module}{inner}.{_NAMES[variable]}", variable == "kernel")


def to_peft(name: PeftName, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns a Keras variable's value as PEFT stores it."""
    if not name.transposed:
        return value.reshape(name.shape)
    inputs = value.ndim - 1 if name.key.endswith(_READ_INPUTS) else 1  # how many axes are inputs
    return np.ascontiguousarray(value.reshape(math.prod(value.shape[:inputs]), -1).T)


def from_peft(name: PeftName, value: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Returns a PEFT tensor in the shape of its Keras variable.

    Raises:
        ValueError: If the shapes do not agree.
    """
    expected = to_peft(name, np.empty(shape, "float32")).shape
    if value.shape != expected:
        raise ValueError(f"tensor {name.key} has shape {value.shape}, but the model needs {expected}.")
    return value.T.reshape(shape) if name.transposed else value.reshape(shape)


def hugging_face_modules(layout: Layout) -> dict[str, str]:
    """Returns the structural path of each named layer by its Hugging Face module name."""
    return {layer.hugging_face: path for path, layer in named_layers(layout).items()}

"""One linear map for all layers: operands in the input's dtype, sums in float32."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import keras
from keras import ops
from keras.src.backend import AutocastScope

from kpeft.layers.quantized_tensor import QuantizedTensor


def linear(x: Any, kernel: Any, axes: int = 1) -> Any:
    """Contracts the last `axes` axes of `x` with the first `axes` of `kernel`.

    Args:
        x: (..., *in).
        kernel: A variable, a tensor or a quantised weight, (*in, *out).
        axes: Number of axes that `in` stands for.

    Returns:
        (..., *out); on JAX float32 for an `x` of less.
    """
    if not on_jax():
        return ops.tensordot(x, full(kernel), axes)
    inner, outer = kernel.shape[:axes], kernel.shape[axes:]
    rows = tuple(x.shape[: len(x.shape) - axes])
    x = ops.reshape(x, (*rows, math.prod(inner)))
    if isinstance(kernel, QuantizedTensor):
        y = kernel.product(x)
    else:
        y = _matmul(x, ops.reshape(full(kernel), (math.prod(inner), math.prod(outer))))
    return ops.reshape(y, (*rows, *outer))


def _matmul(x: Any, matrix: Any) -> Any:
    if x.dtype not in ("float32", "bfloat16", "float16"):  # ours rounds to the dtype of x and sums in float32
        return ops.matmul(x, matrix)
    from kpeft.ops import matmul

    return matmul(x, matrix)


def full(variable: Any) -> Any:
    """Returns a variable's value as it is stored, where Keras would round it to the layer's compute dtype.

    The products round their operands themselves; a gradient through Keras's rounding would be rounded, too.
    """
    with AutocastScope(None):
        return getattr(variable, "value", variable)


def kernel_axes(layer: Any) -> int:
    """How many axes of a linear layer's kernel are inputs: 1 of a `Dense`'s, those contracted of an `EinsumDense`'s.

    Raises:
        ValueError: If the layer is neither, not one matrix product, quantised, or has Keras's own LoRA enabled.
    """
    if not isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense):
        raise ValueError(f"expected a keras.layers.Dense or EinsumDense. Received: {layer!r}")
    if layer.quantization_mode is not None or layer.lora_enabled:
        raise ValueError(f"expected a plain layer, but {layer.name} is quantised or has Keras's own LoRA enabled.")
    axes = 1 if isinstance(layer, keras.layers.Dense) else matrix_axes(layer.equation)
    if axes is None:
        raise ValueError(
            f"expected an equation that is one matrix product, such as 'abc,cde->abde'. Received: {layer.equation!r}"
        )
    return axes


def project(layer: Any, x: Any) -> Any:
    """Returns a linear layer's map of `x`, before bias and activation; see `kernel_axes` for which layers."""
    return linear(x, layer.kernel, kernel_axes(layer))


def finish(layer: Any, y: Any) -> Any:
    """Adds a linear layer's bias, applies its activation, and only then rounds to its compute dtype."""
    return activate(layer, add_bias(layer, y))


def add_bias(layer: Any, y: Any) -> Any:
    """Adds a linear layer's bias, as it is stored."""
    return y if layer.bias is None else y + full(layer.bias)


def activate(layer: Any, y: Any) -> Any:
    """Applies a linear layer's activation, and only then rounds to its compute dtype."""
    if layer.activation is keras.activations.gelu and on_jax():
        from kpeft.ops import gelu

        y = gelu(y)
    elif layer.activation is not None:
        y = layer.activation(y)
    return ops.cast(y, layer.compute_dtype)


def on_jax() -> bool:
    """Whether Keras computes with JAX."""
    return bool(keras.backend.backend() == "jax")


@cache
def matrix_axes(equation: str) -> int | None:
    """How many axes an `EinsumDense` contracts, if it is a matrix product: `…in,in out->…out`; else `None`.

    Attention's `abc,cde->abde` (1) and `abcd,cde->abe` (2) are.
    """
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    if len(set(inputs)) < len(inputs) or len(set(kernel)) < len(kernel):
        return None
    for axes in range(1, min(len(inputs), len(kernel))):
        kept = inputs[:-axes]
        if inputs[-axes:] == kernel[:axes] and kept + kernel[axes:] == outputs:
            return axes
    return None

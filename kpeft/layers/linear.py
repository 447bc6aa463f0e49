"""One linear map for all layers: operands in the input's dtype, sums in float32."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import keras
from keras import ops


def linear(x: Any, kernel: Any, axes: int = 1) -> Any:
    """Contracts the last `axes` axes of `x` with the first `axes` of `kernel`.

    Args:
        x: (..., *in).
        kernel: A variable or tensor, (*in, *out).
        axes: Number of axes that `in` stands for.

    Returns:
        (..., *out); on JAX float32 whatever the dtype of `x`.
    """
    kernel = getattr(kernel, "value", kernel)
    inner, outer = kernel.shape[:axes], kernel.shape[axes:]
    rows = tuple(x.shape[: len(x.shape) - axes])
    x = ops.reshape(x, (*rows, math.prod(inner)))
    matrix = ops.reshape(kernel, (math.prod(inner), math.prod(outer)))
    return ops.reshape(_matmul(x, matrix), (*rows, *outer))


def _matmul(x: Any, matrix: Any) -> Any:
    # In float32, XLA's own product and its gradient are as good as ours.
    if keras.backend.backend() != "jax" or x.dtype == "float32":
        return ops.matmul(x, matrix)
    from kpeft.ops import matmul

    return matmul(x, matrix)


def activate(activation: Any, x: Any) -> Any:
    """Applies a layer's activation, which may be `None`."""
    if activation is keras.activations.gelu and keras.backend.backend() == "jax":
        from kpeft.ops import gelu

        return gelu(x)
    return x if activation is None else activation(x)


@cache
def matrix_axes(equation: str) -> int | None:
    """How many axes an `EinsumDense` contracts, if it is a matrix product: `…in,in out->…out`; else `None`.

    Attention's `abc,cde->abde` (1) and `abcd,cde->abe` (2) are.
    """
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    for axes in range(1, min(len(inputs), len(kernel))):
        kept = inputs[:-axes]
        if inputs[-axes:] == kernel[:axes] and kept + kernel[axes:] == outputs:
            return axes
    return None

"""A frozen weight in few bits, in the place of a float variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import keras
import numpy as np
from keras import ops

from kpeft.quantization import Form, Int8


@final
class QuantizedTensor:
    """A frozen weight that is stored as `form` has it; to linear layers and embeddings what a variable is.

    It holds no float32 copy: `value` makes one each time, and `product` and `rows` make what they need.

    Args:
        shape: Of the weight; its matrix has the same elements in the same order.
        form: How the matrix is stored.
        add_weight: Makes a variable: `Layer.add_weight`. All start at zero, and so does the weight.
        name: What the variables' names start with.

    Attributes:
        shape: As above.
        variables: What is stored.
        dtype: Of `value`: `"float32"`.
        trainable: `False`.
    """

    dtype = "float32"
    trainable = False

    def __init__(self, shape: tuple[int, ...], form: Form, add_weight: Callable[..., Any], name: str) -> None:
        self.shape = tuple(shape)
        self.variables = [
            add_weight(
                name=f"{name}_{part}",
                shape=part_shape,
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )
            for part, part_shape, dtype in form.specs()
        ]
        self._form = form

    @property
    def _stored(self) -> list[Any]:
        return [variable.value for variable in self.variables]

    @property
    def value(self) -> Any:
        """The weight, float32."""
        return ops.reshape(self._form.decode(self._stored), self.shape)

    def assign(self, value: Any) -> None:
        """Quantises and stores a value of the same shape."""
        matrix = np.asarray(ops.convert_to_numpy(value), "float32").reshape(self._form.shape)
        for variable, array in zip(self.variables, self._form.encode(matrix), strict=True):
            variable.assign(array)

    def product(self, x: Any) -> Any:
        """Returns x W of `x` (..., in) and the matrix (in, out), float32; on JAX, W is made anew in each pass."""
        if keras.backend.backend() != "jax" or x.dtype not in ("float32", "bfloat16", "float16"):
            return ops.matmul(x, ops.cast(self._form.decode(self._stored), x.dtype))
        from kpeft.ops import frozen_matmul

        stored = self._stored
        return frozen_matmul(x, stored, self._form.matrix) * self._form.scale(stored)

    def rows(self, ids: Any) -> Any:
        """Returns rows of a table that is int8 by row, (*ids, columns), float32; no other row is decoded."""
        assert isinstance(self._form, Int8)
        assert self._form.by_row
        codes, scales = self._stored
        return ops.cast(ops.take(codes, ids, axis=0), "float32") * ops.take(scales, ids, axis=0)

    def __jax_array__(self) -> Any:
        return self.value

"""A linear layer as a matrix: what `Dense` and `EinsumDense` have in common for low-rank changes."""

from __future__ import annotations

import math
from typing import Any, final

import keras
from keras import ops

from kpeft.layers.linear import linear, matrix_axes


@final
class LinearMap:
    """The linear map of a `Dense` or an `EinsumDense`, and of a product of two thin factors in its place.

    The kernel (*in, *out) is read as a matrix from all axes that it contracts to all axes that it makes.

    Attributes:
        contracted: Number of axes in `*in`.
        makes_last_axes: Whether the layer's outputs end in `*out`, so that a vector of that shape is added as it is.

    Args:
        base: The layer, built or not.
        dtype: What is between the two thin products is rounded to it.

    Raises:
        ValueError: If the kernel of an `EinsumDense` does not list its contracted axes first.
    """

    def __init__(self, base: Any, dtype: str) -> None:
        self.contracted, self._equations, self._dtype = 1, ("", "", ""), dtype
        self.makes_last_axes = True
        if isinstance(base, keras.layers.EinsumDense):
            self.contracted, *thin = _split_equation(base.equation)
            kernel, outputs = base.equation.replace(" ", "").partition(",")[2].split("->")
            self.makes_last_axes = outputs.endswith(kernel[self.contracted :])
            if matrix_axes(base.equation) is None:
                self._equations = (base.equation, *thin)

    def factor_shapes(self, kernel: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shapes of A (*in, r) and B (r, *out)."""
        shape = tuple(kernel.shape)
        return (*shape[: self.contracted], rank), (rank, *shape[self.contracted :])

    def matrix(self, kernel: Any) -> Any:
        """Returns the kernel as a matrix (in, out)."""
        return ops.reshape(kernel, (math.prod(kernel.shape[: self.contracted]), -1))

    def project(self, x: Any, kernel: Any) -> Any:
        """Returns x W."""
        return self._product(0, x, kernel, self.contracted)

    def low_rank(self, x: Any, a: Any, b: Any, scale: Any) -> Any:
        """Returns scale·(x A) B along the split path, without ever forming A B."""
        hidden = self._product(1, x, a, self.contracted) * scale
        return self._product(2, ops.cast(hidden, self._dtype), b, 1)

    def _product(self, which: int, x: Any, kernel: Any, axes: int) -> Any:
        equation = self._equations[which]
        return ops.einsum(equation, x, ops.cast(kernel, x.dtype)) if equation else linear(x, kernel, axes)


def _split_equation(equation: str) -> tuple[int, str, str]:
    """Splits `x,w->y` into `x,a->h` and `h,b->y`; returns the number of contracted kernel axes and both equations."""
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    contracted = [label for label in kernel if label not in outputs]
    made = [label for label in kernel if label in outputs]
    if not contracted or any(label in inputs for label in made) or kernel != "".join(contracted + made):
        raise ValueError(
            "a low-rank change needs an equation whose kernel first lists the axes it contracts, then those it makes, "
            f"such as 'abc,cde->abde'. Received: equation={equation!r}"
        )
    rank = next(label for label in "rstuvwxyzabcdefghijklmnopq" if label not in equation)
    hidden = "".join(label for label in inputs if label not in contracted) + rank
    return (
        len(contracted),
        f"{inputs},{''.join(contracted)}{rank}->{hidden}",
        f"{hidden},{rank}{''.join(made)}->{outputs}",
    )

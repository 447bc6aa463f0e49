"""LoKr: a change of a kernel that is a Kronecker product of two small matrices.

Edalati et al., 2022, https://arxiv.org/abs/2212.10650 (KronA), as LyCORIS has it (Yeh et al., 2023,
https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.linear import finish, kernel_axes, linear, project


def two_factors(number: int, factor: int = -1) -> tuple[int, int]:
    """Splits a number into two whole factors m and n, as LyCORIS and Hugging Face PEFT do.

    Args:
        number: What to split.
        factor: m if it divides the number (which can make m the larger), else the most that m may be; -1 makes both as
            near to each other as can be.

    Example:
        >>> two_factors(768), two_factors(768, 4)
        ((24, 32), (4, 192))
    """
    if factor > 0 and number % factor == 0:
        return factor, number // factor
    limit = math.isqrt(number) if factor == -1 else min(factor, math.isqrt(number))
    m = next(m for m in range(limit, 0, -1) if number % m == 0)
    return m, number // m


@keras.saving.register_keras_serializable("kpeft")
class LoKrLinear(MergeableAdapter):
    """LoKr on a `keras.layers.Dense` or `EinsumDense`.

    With s = alpha / r, in = m·n and out = p·q as `two_factors` splits them, W1 (m, p) and W2 (n, q)::

        y = f(x (W + s·W1 ⊗ W2) + b),    (W1 ⊗ W2)[(i, j), (k, l)] = W1[i, k]·W2[j, l]

    computed as W1ᵀ (X W2) with x as a matrix X (m, n), never as the large product. W2 is a product A2 B2 of factors
    (n, r) and (r, q) where r < max(n, q) / 2; so is W1 with `decompose_both`, where r < max(m, p) / 2. W1, or B1,
    starts at zero and all else uniform in ±1/sqrt of the features it reads, as in Hugging Face PEFT, so the layer
    starts out equal to its base. For attention's `abc,cde->abde` with a kernel (d, heads, head_dim), in is d and out
    heads·head_dim. The variables have the layer's variable dtype.

    Args:
        base: The linear layer to adapt, built or not.
        rank: r.
        alpha: Scale of the change.
        decompose_both: Whether W1 may be a product, too.
        decompose_factor: See `two_factors`.
        seed: Seed of the start.
        **kwargs: Of `MergeableAdapter`.

    Example:
        >>> layer = LoKrLinear(keras.layers.Dense(64, activation="relu"), rank=2)
    """

    def __init__(
        self,
        base: Any,
        *,
        rank: int = 8,
        alpha: float = 8.0,
        decompose_both: bool = False,
        decompose_factor: int = -1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        if decompose_factor < 1 and decompose_factor != -1:
            raise ValueError(f"decompose_factor must be at least 1, or -1. Received: {decompose_factor}")
        kernel_axes(base)  # raises for what cannot be adapted
        super().__init__(base, **kwargs)
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.decompose_both = decompose_both
        self.decompose_factor = decompose_factor
        self.seed = seed

    def build_adapter(self) -> None:
        shape, axes = tuple(self.base.kernel.shape), kernel_axes(self.base)
        self._axes, self._outputs = axes, shape[axes:]
        self._sizes = m, n = two_factors(math.prod(shape[:axes]), self.decompose_factor)
        p, q = two_factors(math.prod(shape[axes:]), self.decompose_factor)
        generator = keras.random.SeedGenerator(self.seed)

        def add(name: str, *shape: int, zero: bool = False) -> None:
            bound = 1 / math.sqrt(shape[0])
            start = "zeros" if zero else keras.initializers.RandomUniform(-bound, bound, seed=generator)
            self.add_weight(name=name, shape=shape, initializer=start, autocast=False)

        if self.decompose_both and self.rank < max(m, p) / 2:
            add("lokr_a1", m, self.rank)
            add("lokr_b1", self.rank, p, zero=True)
        else:
            add("lokr_w1", m, p, zero=True)
        if self.rank < max(n, q) / 2:
            add("lokr_a2", n, self.rank)
            add("lokr_b2", self.rank, q)
        else:
            add("lokr_w2", n, q)

    def _factors(self, number: int) -> list[Any]:
        """Returns W1 or W2, or the two factors that make it."""
        return [variable for variable in self.own_trainable_variables if variable.name.endswith(str(number))]

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return finish(self.base, project(self.base, inputs) + self.change(inputs))

    def change(self, x: Any) -> Any:
        """Returns gate·s·x (W1 ⊗ W2) by way of two small products."""
        rows = tuple(ops.shape(x)[: len(x.shape) - self._axes])
        hidden = ops.reshape(x, (*rows, *self._sizes))
        for factor in self._factors(2):
            hidden = ops.cast(linear(hidden, factor), self.compute_dtype)
        hidden = ops.swapaxes(hidden, -1, -2)
        for factor in self._factors(1):
            hidden = linear(ops.cast(hidden, self.compute_dtype), factor)
        change = self.scaling * self.gate * ops.swapaxes(hidden, -1, -2)
        return ops.reshape(change, (*rows, *self._outputs))

    def kernel_change(self) -> Any:
        values = [[factor.value for factor in self._factors(number)] for number in (1, 2)]
        first, second = (each[0] if len(each) == 1 else ops.matmul(*each) for each in values)
        change = ops.reshape(self.scaling * ops.kron(first, second), self.base.kernel.shape)
        return ops.cast(change, self.base.kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        options = {"decompose_both": self.decompose_both, "decompose_factor": self.decompose_factor}
        return {**super().get_config(), "rank": self.rank, "alpha": self.alpha, **options, "seed": self.seed}

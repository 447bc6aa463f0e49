"""LoHa: the product, element by element, of two low-rank changes.

Hyeon-Woo et al., 2021, https://arxiv.org/abs/2108.06098 (FedPara), under the name it has in LyCORIS (Yeh et al., 2023,
https://arxiv.org/abs/2309.14859).
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.linear import finish, full, kernel_axes, linear, project


@keras.saving.register_keras_serializable("kpeft")
class LoHaLinear(MergeableAdapter):
    """LoHa on a `keras.layers.Dense` or `EinsumDense`.

    With s = alpha / r, and factors A1, A2 (*in, r) and B1, B2 (r, *out)::

        y = f(x (W + s·(A1 B1) ⊙ (A2 B2)) + b)

    The change has a rank of up to r². It is also A B with A (in, r²) all products of a column of A1 and one of A2, and
    B likewise of rows; while that is less work than the kernel's, the layer computes (x A) B and never forms A B.
    B1 and B2 start uniform in ±1/sqrt(r), A1 in ±1/sqrt(in) and A2 at zero, as in Hugging Face PEFT, so the layer
    starts out equal to its base. For attention's `abc,cde->abde` with a kernel (d, heads, head_dim), in is d and out
    (heads, head_dim). The factors have the layer's variable dtype.

    Args:
        base: The linear layer to adapt, built or not.
        rank: r.
        alpha: Scale of the change.
        seed: Seed of the start.
        **kwargs: Of `MergeableAdapter`.

    Example:
        >>> layer = LoHaLinear(keras.layers.Dense(64, activation="relu"), rank=4)
    """

    def __init__(self, base: Any, *, rank: int = 8, alpha: float = 8.0, seed: int | None = None, **kwargs: Any) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        kernel_axes(base)  # raises for what cannot be adapted
        super().__init__(base, **kwargs)
        self.rank = rank
        self.alpha = alpha
        self.scaling = alpha / rank
        self.seed = seed

    def build_adapter(self) -> None:
        shape, self._axes = tuple(self.base.kernel.shape), kernel_axes(self.base)
        inner, outer = shape[: self._axes], shape[self._axes :]
        features_in, features_out = math.prod(inner), math.prod(outer)
        self._split = self.rank**2 * (features_in + features_out) < features_in * features_out
        generator = keras.random.SeedGenerator(self.seed)

        def add(name: str, shape: tuple[int, ...], bound: float) -> Any:
            start = keras.initializers.RandomUniform(-bound, bound, seed=generator) if bound else "zeros"
            return self.add_weight(name=name, shape=shape, initializer=start, autocast=False)

        self.loha_a1 = add("loha_a1", (*inner, self.rank), 1 / math.sqrt(features_in))
        self.loha_b1 = add("loha_b1", (self.rank, *outer), 1 / math.sqrt(self.rank))
        self.loha_a2 = add("loha_a2", (*inner, self.rank), 0)
        self.loha_b2 = add("loha_b2", (self.rank, *outer), 1 / math.sqrt(self.rank))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return finish(self.base, project(self.base, inputs) + self.change(inputs))

    def change(self, x: Any) -> Any:
        """Returns gate·s·x ((A1 B1) ⊙ (A2 B2))."""
        scale = self.scaling * self.gate
        a1, b1, a2, b2 = (full(each) for each in (self.loha_a1, self.loha_b1, self.loha_a2, self.loha_b2))
        if not self._split:
            return scale * linear(x, ops.tensordot(a1, b1, 1) * ops.tensordot(a2, b2, 1), self._axes)
        a = ops.expand_dims(a1, -1) * ops.expand_dims(a2, -2)
        b = ops.expand_dims(b1, 1) * ops.expand_dims(b2, 0)
        square = self.rank**2
        hidden = scale * linear(x, ops.reshape(a, (*a1.shape[:-1], square)), self._axes)
        return linear(ops.cast(hidden, self.compute_dtype), ops.reshape(b, (square, *b1.shape[1:])))

    def kernel_change(self) -> Any:
        first = ops.tensordot(self.loha_a1.value, self.loha_b1.value, axes=1)
        second = ops.tensordot(self.loha_a2.value, self.loha_b2.value, axes=1)
        return ops.cast(self.scaling * first * second, self.base.kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rank": self.rank, "alpha": self.alpha, "seed": self.seed}

"""VeRA: trained scales of one frozen random low-rank change that layers share.

Kopiczko et al., 2023, https://arxiv.org/abs/2310.11454
"""

from __future__ import annotations

import math
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.fast import FastDropout
from kpeft.layers.linear import finish, full, kernel_axes, linear, project


@keras.saving.register_keras_serializable("kpeft")
class VeRAProjection(keras.layers.Layer):
    """The frozen matrices A (features_in, r) and B (r, features_out) that VeRA layers share.

    Both are uniform in ±sqrt(6 / fan), with fan the inputs of each: features_in and r (Kaiming's start).

    Args:
        rank: r.
        features_in: Inputs of the widest layer; others take the first rows of A.
        features_out: Outputs of the widest layer; others take the first columns of B.
        seed: Decides both matrices.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, *, rank: int, features_in: int, features_out: int, seed: int = 0, **kwargs: Any) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        super().__init__(trainable=False, **{k: v for k, v in kwargs.items() if k != "trainable"})
        self.rank = rank
        self.features_in = features_in
        self.features_out = features_out
        self.seed = seed

    def build(self, input_shape: Any = None) -> None:
        random = np.random.RandomState(self.seed)  # its numbers are fixed for all versions of numpy

        def add(name: str, rows: int, columns: int) -> Any:
            bound = math.sqrt(6 / rows)

            def start(shape: Any, dtype: Any) -> Any:
                return ops.convert_to_tensor(random.uniform(-bound, bound, shape), dtype)

            return self.add_weight(name=name, shape=(rows, columns), initializer=start, autocast=False)

        self.vera_a = add("vera_a", self.features_in, self.rank)
        self.vera_b = add("vera_b", self.rank, self.features_out)
        self.built = True

    def get_config(self) -> dict[str, Any]:
        sizes = {"rank": self.rank, "features_in": self.features_in, "features_out": self.features_out}
        return {**super().get_config(), **sizes, "seed": self.seed}


@keras.saving.register_keras_serializable("kpeft")
class VeRALinear(MergeableAdapter):
    """VeRA on a `keras.layers.Dense` or `EinsumDense`.

    ::

        y = f(x W + λ_b ⊙ ((λ_d ⊙ (dropout(x) A)) B) + b)

    W and b are the base's and frozen; f is its activation. A (in, r) and B (r, out) are the first rows and columns of
    the shared frozen matrices. λ_d (r) starts at `d_initial`, λ_b (*out) at zero, so the layer starts out equal to its
    base. For attention's `abc,cde->abde` with a kernel (d, heads, head_dim), out is (heads, head_dim). λ_d and λ_b have
    the layer's variable dtype.

    Args:
        base: The linear layer to adapt, built or not.
        projection: A and B; give the same one to several layers.
        dropout: Share of the adapter's input that is dropped in training.
        d_initial: Where λ_d starts.
        seed: Seed of the dropout.
        **kwargs: Of `MergeableAdapter`.

    Example:
        >>> shared = VeRAProjection(rank=256, features_in=128, features_out=128)
        >>> hidden = VeRALinear(keras.layers.Dense(128, activation="relu"), projection=shared)
        >>> output = VeRALinear(keras.layers.Dense(64), projection=shared)
    """

    def __init__(
        self,
        base: Any,
        *,
        projection: VeRAProjection,
        dropout: float = 0.0,
        d_initial: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={dropout}")
        kernel_axes(base)  # raises for what cannot be adapted
        super().__init__(base, **kwargs)
        self.projection = projection
        self.dropout_rate = dropout
        self.d_initial = d_initial
        self.seed = seed
        self.dropout = FastDropout(dropout, seed=seed, dtype=self.dtype_policy, name="dropout")

    def build_adapter(self) -> None:
        shape, axes = tuple(self.base.kernel.shape), kernel_axes(self.base)
        if not self.projection.built:
            self.projection.build()
        self._inputs, self._outputs = shape[:axes], shape[axes:]
        needed = math.prod(self._inputs), math.prod(self._outputs)
        held = self.projection.features_in, self.projection.features_out
        if needed[0] > held[0] or needed[1] > held[1]:
            raise ValueError(
                f"layer {self.base.path} maps {needed[0]} features to {needed[1]}, more than the projection's "
                f"features_in={held[0]} or features_out={held[1]}."
            )
        self.lambda_d = self.add_weight(
            name="vera_lambda_d",
            shape=(self.projection.rank,),
            initializer=keras.initializers.Constant(self.d_initial),
            autocast=False,
        )
        self.lambda_b = self.add_weight(name="vera_lambda_b", shape=self._outputs, initializer="zeros", autocast=False)

    def _factors(self) -> tuple[Any, Any]:
        """Returns this layer's A (*in, r) and B (r, *out)."""
        a, b = full(self.projection.vera_a), full(self.projection.vera_b)
        rank = self.projection.rank
        a, b = a[: math.prod(self._inputs)], b[:, : math.prod(self._outputs)]
        return ops.reshape(a, (*self._inputs, rank)), ops.reshape(b, (rank, *self._outputs))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        a, b = self._factors()
        hidden = linear(self.dropout(inputs, training=training), a, len(self._inputs)) * full(self.lambda_d)
        change = linear(ops.cast(hidden, self.compute_dtype), b) * (self.gate * full(self.lambda_b))
        return finish(self.base, project(self.base, inputs) + change)

    def kernel_change(self) -> Any:
        a, b = self._factors()
        change = ops.tensordot(a * self.lambda_d.value, b, axes=1) * self.lambda_b.value
        return ops.cast(change, self.base.kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "projection": self.projection,  # Keras serialises it, and notes there that layers share it
            "dropout": self.dropout_rate,
            "d_initial": self.d_initial,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        projection = config["projection"]
        if not isinstance(projection, VeRAProjection):
            projection = keras.saving.deserialize_keras_object(projection)
        return super().from_config({**config, "projection": projection})

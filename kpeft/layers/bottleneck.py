"""Bottleneck adapters: a small two-layer network behind a linear layer, or beside a feed-forward.

Houlsby et al., 2019, https://arxiv.org/abs/1902.00751; He et al., 2021, https://arxiv.org/abs/2110.04366
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.linear import activate, full, linear


class BottleneckLayer(AdapterLayer):
    """What the layers of bottleneck adapters share; use one of those below.

    With D (in, size) and U (size, out), a(x) = s·(g(x D + c) U + e). D starts uniform in ±1/sqrt(in), U and the biases
    c (size) and e (out) at zero, so that a model starts out as it was. All have the layer's variable dtype; sums are in
    float32.

    Args:
        base: The layer to adapt, built or not.
        size: Width of the bottleneck.
        activation: g, as everywhere in Keras.
        scale: s.
        seed: Seed of the start of D.
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(
        self,
        base: Any,
        *,
        size: int = 64,
        activation: Any = "gelu",
        scale: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1. Received: size={size}")
        super().__init__(base, **kwargs)
        self.size = size
        self.activation = keras.activations.get(activation)
        self.scale = scale
        self.seed = seed

    def add_down(self, features: int) -> None:
        bound = 1 / math.sqrt(features)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        shape = (features, self.size)
        self.down_kernel = self.add_weight(name="down_kernel", shape=shape, initializer=uniform, autocast=False)
        self.down_bias = self.add_weight(name="down_bias", shape=(self.size,), initializer="zeros", autocast=False)

    def add_up(self, features: int) -> None:
        shape = (self.size, features)
        self.up_kernel = self.add_weight(name="up_kernel", shape=shape, initializer="zeros", autocast=False)
        self.up_bias = self.add_weight(name="up_bias", shape=(features,), initializer="zeros", autocast=False)

    def down(self, x: Any) -> Any:
        """Returns g(x D + c), shape (…, size)."""
        return activate(self, linear(x, self.down_kernel) + full(self.down_bias))

    def up(self, hidden: Any) -> Any:
        """Returns s·(h U + e), shape (…, out); zero where the gate is closed."""
        return self.scale * self.gate * (linear(hidden, self.up_kernel) + full(self.up_bias))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "activation": keras.activations.serialize(self.activation),
            "scale": self.scale,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kpeft")
class SequentialBottleneck(BottleneckLayer):
    """A bottleneck adapter behind a layer: y = h + a(h), where h (…, d) is what the base computes.

    Args:
        base: Any layer with one output.
        size: See `BottleneckLayer`; so are `activation`, `scale` and `seed`.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> layer = SequentialBottleneck(keras.layers.Dense(128), size=16)
    """

    def build_adapter(self) -> None:
        features = self.base.compute_output_shape(self.base.get_build_config()["input_shape"])[-1]
        self.add_down(features)
        self.add_up(features)

    def call(self, inputs: Any) -> Any:
        outputs = self.base(inputs)
        return ops.cast(outputs + self.up(self.down(outputs)), self.compute_dtype)


@keras.saving.register_keras_serializable("kpeft")
class ParallelDown(BottleneckLayer):
    """The first half of an adapter beside a feed-forward: y = [base(x), g(x D + c)], shape (…, width + size).

    The base is the feed-forward's first layer, and `ParallelUp` wraps its second, which must follow directly. What the
    bottleneck computes travels with the feed-forward's own hidden units, so neither layer remembers anything. It has no
    change to switch off: where `ParallelUp` is off, its part is not used.

    Args:
        base: The feed-forward's first layer.
        size: See `BottleneckLayer`; so are `activation` and `seed`.
        **kwargs: Of `keras.layers.Layer`.
    """

    def build_adapter(self) -> None:
        self.add_down(self.base.get_build_config()["input_shape"][-1])

    def call(self, inputs: Any) -> Any:
        return ops.concatenate([self.base(inputs), self.down(inputs)], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        *rest, width = self.base.compute_output_shape(input_shape)
        return (*rest, width + self.size)


@keras.saving.register_keras_serializable("kpeft")
class ParallelUp(BottleneckLayer):
    """The second half of an adapter beside a feed-forward: y = base(h) + s·(a U + e), where x = [h, a].

    x (…, width + size) is what `ParallelDown` of the same size gives.

    Args:
        base: The feed-forward's second layer.
        size: See `BottleneckLayer`; so is `scale`.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> first = ParallelDown(keras.layers.Dense(256, activation="gelu"), size=16)
        >>> second = ParallelUp(keras.layers.Dense(64), size=16, scale=4.0)
        >>> y = second(first(np.ones((2, 64))))
    """

    def build(self, input_shape: Any) -> None:
        if not self.base.built:
            self.base.build((*input_shape[:-1], input_shape[-1] - self.size))
        super().build(input_shape)

    def build_adapter(self) -> None:
        self.add_up(self.base.compute_output_shape(self.base.get_build_config()["input_shape"])[-1])

    def call(self, inputs: Any) -> Any:
        hidden, bottleneck = inputs[..., : -self.size], inputs[..., -self.size :]
        return ops.cast(self.base(hidden) + self.up(bottleneck), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape((*input_shape[:-1], input_shape[-1] - self.size))

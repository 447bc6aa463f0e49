"""Bottleneck adapters: a small two-layer network behind a linear layer, or beside a feed-forward.

Houlsby et al., 2019, https://arxiv.org/abs/1902.00751; He et al., 2021, https://arxiv.org/abs/2110.04366
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.gate import InputGate
from kpeft.layers.linear import activate, full, linear


class BottleneckLayer(AdapterLayer):
    """What the layers of bottleneck adapters share; use one of those below.

    With D (in, size) and U (size, out), a(x) = s·(g(x D + c) U + e). D starts uniform in ±1/sqrt(in), U and the biases
    c (size) and e (out) at zero, so that a model starts out as it was. All have the layer's variable dtype; sums are in
    float32. If gated, a(x) is G(x) times as much, with one number G for each row, `kpeft.layers.InputGate`'s.

    Args:
        base: The layer to adapt, built or not.
        size: Width of the bottleneck.
        activation: g, as everywhere in Keras.
        scale: s.
        gated: Scale each row's change by a gate.
        seed: Seed of the start of D and of the gate.
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(
        self,
        base: Any,
        *,
        size: int = 64,
        activation: Any = "gelu",
        scale: float = 1.0,
        gated: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1. Received: size={size}")
        super().__init__(base, **kwargs)
        self.size = size
        self.activation = keras.activations.get(activation)
        self.scale = scale
        self.gated = gated
        self.seed = seed

    def add_down(self, features: int) -> None:
        self.add_down_map(features)
        self.down_bias = self.add_weight(name="down_bias", shape=(self.size,), initializer="zeros", autocast=False)
        if self.gated:
            self.input_gate = InputGate(seed=self.seed, dtype=self.dtype_policy, name="input_gate")
            self.input_gate.build((features,))

    def add_down_map(self, features: int) -> None:
        """Makes D."""
        bound = 1 / math.sqrt(features)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        shape = (features, self.size)
        self.down_kernel = self.add_weight(name="down_kernel", shape=shape, initializer=uniform, autocast=False)

    def add_up(self, features: int) -> None:
        self.add_up_map(features)
        self.up_bias = self.add_weight(name="up_bias", shape=(features,), initializer="zeros", autocast=False)

    def add_up_map(self, features: int) -> None:
        """Makes U."""
        shape = (self.size, features)
        self.up_kernel = self.add_weight(name="up_kernel", shape=shape, initializer="zeros", autocast=False)

    def map_down(self, x: Any) -> Any:
        """Returns x D."""
        return linear(x, self.down_kernel)

    def map_up(self, hidden: Any) -> Any:
        """Returns h U."""
        return linear(hidden, self.up_kernel)

    def down(self, x: Any) -> Any:
        """Returns g(x D + c), shape (…, size)."""
        return activate(self, self.map_down(x) + full(self.down_bias))

    def up(self, hidden: Any) -> Any:
        """Returns s·(h U + e), shape (…, out); zero where the gate is closed."""
        return self.scale * self.gate * (self.map_up(hidden) + full(self.up_bias))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "activation": keras.activations.serialize(self.activation),
            "scale": self.scale,
            "gated": self.gated,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kpeft")
class SequentialBottleneck(BottleneckLayer):
    """A bottleneck adapter behind a layer: y = h + a(h), where h (…, d) is what the base computes.

    Args:
        base: Any layer with one output.
        size: See `BottleneckLayer`; so are `activation`, `scale`, `gated` and `seed`.
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
        change = self.up(self.down(outputs))
        if self.gated:
            change = self.input_gate(outputs, ndim=len(change.shape)) * change
        return ops.cast(outputs + change, self.compute_dtype)


@keras.saving.register_keras_serializable("kpeft")
class ParallelDown(BottleneckLayer):
    """The first half of an adapter beside a feed-forward: y = [base(x), g(x D + c)], shape (…, width + size).

    The base is the feed-forward's first layer, and `ParallelUp` wraps its second, which must follow directly. What the
    bottleneck computes travels with the feed-forward's own hidden units, so neither layer remembers anything; if gated,
    G(x) does as one unit more, the same at all of a row's positions. There is no change to switch off: where
    `ParallelUp` is off, this part is not used.

    Args:
        base: The feed-forward's first layer.
        size: See `BottleneckLayer`; so are `activation`, `gated` and `seed`.
        **kwargs: Of `keras.layers.Layer`.
    """

    def build_adapter(self) -> None:
        self.add_down(self.base.get_build_config()["input_shape"][-1])

    def call(self, inputs: Any) -> Any:
        parts = [self.base(inputs), self.down(inputs)]
        if self.gated:
            share = self.input_gate(inputs, ndim=len(inputs.shape))
            parts.append(ops.broadcast_to(ops.cast(share, self.compute_dtype), (*ops.shape(inputs)[:-1], 1)))
        return ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        *rest, width = self.base.compute_output_shape(input_shape)
        return (*rest, width + self.size + self.gated)


@keras.saving.register_keras_serializable("kpeft")
class ParallelUp(BottleneckLayer):
    """The second half of an adapter beside a feed-forward: y = base(h) + G·s·(a U + e), where x = [h, a, G].

    x (…, width + size + 1) is what `ParallelDown` of the same size gives; G is 1, and not in x, if not gated.

    Args:
        base: The feed-forward's second layer.
        size: See `BottleneckLayer`; so are `scale` and `gated`.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> first = ParallelDown(keras.layers.Dense(256, activation="gelu"), size=16)
        >>> second = ParallelUp(keras.layers.Dense(64), size=16, scale=4.0)
        >>> y = second(first(np.ones((2, 64))))
    """

    def build(self, input_shape: Any) -> None:
        if not self.base.built:
            self.base.build((*input_shape[:-1], self._width(input_shape)))
        super().build(input_shape)

    def build_adapter(self) -> None:
        self.add_up(self.base.compute_output_shape(self.base.get_build_config()["input_shape"])[-1])

    def call(self, inputs: Any) -> Any:
        width = self._width(inputs.shape)
        change = self.up(inputs[..., width : width + self.size])
        if self.gated:
            change = inputs[..., -1:] * change
        return ops.cast(self.base(inputs[..., :width]) + change, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape((*input_shape[:-1], self._width(input_shape)))

    def _width(self, input_shape: Any) -> int:
        return int(input_shape[-1] - self.size - self.gated)

"""Gates: how much of an adapter each row takes, decided by what the adapted layer reads.

UniPELT, Mao et al., 2022, https://arxiv.org/abs/2110.07577
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.linear import full, linear

_REAL: ContextVar[Any] = ContextVar("kpeft_real_positions", default=None)
"""The padding mask of the block that is being computed, (rows, length); set while JAX traces that block, too."""


@keras.saving.register_keras_serializable("kpeft")
class InputGate(keras.layers.Layer):
    """One number between 0 and 1 for each row, a mean over its real positions t.

    ::

        G(x) = Σ_t m_t·sigmoid(x_t·w + b) / Σ_t m_t

    m_t is 1 at real positions and 0 at padding; `MaskedBlock` knows which those are, and elsewhere all are real. An
    input (rows, *features) has one position. w (*features) starts at N(0, 0.02²) and b at zero, so G at about 1/2. Both
    have the layer's variable dtype; logits and mean are float32.

    The definition is that of AdapterHub's `use_gating` (a gate for each adapted layer, and one for the keys and values
    of a prefix), but that padding does not count: a row's gate is the same however far its batch is padded.

    Args:
        axes: Number of axes of the features.
        seed: Seed of the start.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, axes: int = 1, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes = axes
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        normal = keras.initializers.RandomNormal(stddev=0.02, seed=self.seed)
        shape = (*input_shape[-self.axes :], 1)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=normal, autocast=False)
        self.bias = self.add_weight(name="bias", shape=(1,), initializer="zeros", autocast=False)

    def call(self, inputs: Any, ndim: int = 3) -> Any:
        """Returns G as (rows, 1, …) of `ndim` axes, to be multiplied with what it gates."""
        share = ops.sigmoid(linear(inputs, self.kernel, self.axes) + full(self.bias))  # (rows, positions…, 1)
        mask, others = _REAL.get(), tuple(range(1, len(share.shape)))
        if mask is None or len(others) != 2:
            share = ops.mean(share, axis=others)
        else:
            real = ops.cast(mask, share.dtype)
            share = ops.sum(share[..., 0] * real, axis=1) / ops.maximum(ops.sum(real, axis=1), 1)
        return ops.reshape(share, (-1, *[1] * (ndim - 1)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axes": self.axes, "seed": self.seed}


@keras.saving.register_keras_serializable("kpeft")
class MaskedBlock(AdapterLayer):
    """A block, computed as it is; meanwhile the gates inside it know which positions are padding.

    Layers inside a transformer block see hidden states and no mask: that is an argument of the block. Nothing is kept
    after the call.

    Args:
        base: A layer that is called with `padding_mask`, (rows, length), which is 1 at real positions.
        **kwargs: Of `AdapterLayer`.
    """

    def build_adapter(self) -> None:
        """Adds nothing."""

    def call(self, inputs: Any, padding_mask: Any = None, training: bool | None = None, **kwargs: Any) -> Any:
        outer = _REAL.set(padding_mask)
        try:
            return self.base(inputs, padding_mask=padding_mask, training=training, **kwargs)
        finally:
            _REAL.reset(outer)

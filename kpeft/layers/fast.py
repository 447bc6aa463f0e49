"""Keras's encoder layers with the arithmetic of `kpeft.ops`: the same variables, formulas and saved form, in less time.

`kpeft.recast.recast` turns built Keras layers into these, which add no state. On another backend than JAX, and for
options that encoders do not use, each is the Keras layer it derives from.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras

from kpeft.layers.linear import finish, full, linear, matrix_axes, on_jax


class FastLayer:
    """Marks a layer that stands for the Keras class it derives from."""


@keras.saving.register_keras_serializable("kpeft")
class FastDropout(FastLayer, keras.layers.Dropout):
    """`keras.layers.Dropout` with the bits of `kpeft.ops.random_bits`: y = x·m / (1 - rate), m ~ Bernoulli(1 - rate).

    Reproducible as Keras's own is: the layer's seed generator decides the mask. What of a token is dropped does not
    depend on how far its batch is padded if the second axis is the length, as in (batch, length, …). With a
    `noise_shape`, and on another backend than JAX, it is Keras's own.
    """

    lengths: ClassVar[tuple[int, ...]] = (1,)

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        if not training or self.rate in (0, 1) or self.noise_shape is not None or not on_jax():
            return super().call(inputs, training=training)
        from kpeft.ops import dropout

        lengths = self.lengths if inputs.ndim > 2 else ()
        return dropout(inputs, self.seed_generator.next(), self.rate, lengths)


@keras.saving.register_keras_serializable("kpeft")
class FastAttentionDropout(FastDropout):
    """`FastDropout` of attention's probabilities, (batch, heads, length, length): the last two axes are lengths.

    Only attention that is not Keras's, as DeBERTa's, has its dropout as a layer.
    """

    lengths = (2, 3)


@keras.saving.register_keras_serializable("kpeft")
class FastDense(FastLayer, keras.layers.Dense):
    """`keras.layers.Dense`: y = f(x W + b), accumulated and activated in float32 under every dtype policy."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        if self.lora_enabled or self.quantization_mode is not None or not on_jax():
            return super().call(inputs, training=training)
        return finish(self, linear(inputs, self.kernel))

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        super().quantize(mode, type_check=False, config=config)  # Keras's check takes no subclass


@keras.saving.register_keras_serializable("kpeft")
class FastEinsumDense(FastLayer, keras.layers.EinsumDense):
    """`keras.layers.EinsumDense` as one matrix product, where its equation is one."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        axes = matrix_axes(self.equation)
        if self.lora_enabled or self.quantization_mode is not None or axes is None or not on_jax():
            return super().call(inputs, training=training)
        return finish(self, linear(inputs, self.kernel, axes))

    def quantize(self, mode: Any = None, type_check: bool = True, config: Any = None) -> None:
        super().quantize(mode, type_check=False, config=config)  # Keras's check takes no subclass


@keras.saving.register_keras_serializable("kpeft")
class FastLayerNormalization(FastLayer, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis; see `kpeft.ops.layer_norm`."""

    def call(self, inputs: Any) -> Any:
        last = self.axis in (-1, [-1], [inputs.ndim - 1], inputs.ndim - 1)
        if not (last and self.scale and self.center and not self.rms_scaling and on_jax()):
            return super().call(inputs)
        from kpeft.ops import layer_norm

        x = keras.ops.cast(inputs, self.compute_dtype)
        return layer_norm(x, full(self.gamma), full(self.beta), self.epsilon)


@keras.saving.register_keras_serializable("kpeft")
class FastMultiHeadAttention(FastLayer, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with the attention of `kpeft.ops.attention`."""

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        training: bool | None = None,
        return_attention_scores: bool = False,
        **kwargs: Any,
    ) -> Any:
        if return_attention_scores or kwargs or query.ndim != 4 or self._flash_attention or not on_jax():
            return super()._compute_attention(
                query, key, value, attention_mask, training, return_attention_scores, **kwargs
            )
        from kpeft.ops import attention

        rate = self._dropout_layer.rate if training and self._dropout else 0.0
        bits = self._dropout_layer.seed_generator.next() if rate else None
        while attention_mask is not None and attention_mask.ndim < 4:  # as Keras does: heads, then the batch
            attention_mask = keras.ops.expand_dims(attention_mask, -3)
        return attention(query, key, value, attention_mask, bits, rate), None


FAST_LAYERS = (FastDense, FastEinsumDense, FastLayerNormalization, FastMultiHeadAttention, FastDropout)

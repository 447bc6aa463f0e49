"""Dropout with cheaper random bits (Srivastava et al., 2014, https://jmlr.org/papers/v15/srivastava14a.html)."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("kpeft")
class FastDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with the bits of `kpeft.ops.random_bits`: y = x·m / (1 - rate), m ~ Bernoulli(1 - rate).

    Reproducible as Keras's own is: the layer's seed generator decides the mask. With a `noise_shape`, and on another
    backend than JAX, it is Keras's own.
    """

    def call(self, inputs: Any, training: bool | None = False) -> Any:
        if not training or self.rate in (0, 1) or self.noise_shape is not None or keras.backend.backend() != "jax":
            return super().call(inputs, training=training)
        import jax.numpy as jnp

        from kpeft.ops import random_bits

        keep = 1.0 - self.rate
        bits = random_bits(self.seed_generator.next(), inputs.shape)
        kept = bits < jnp.uint32(round(keep * 2**32))
        return jnp.where(kept, inputs / jnp.asarray(keep, inputs.dtype), jnp.zeros((), inputs.dtype))

"""FastDropout: the right share, no pattern, reproducible, and the gradient of what it did."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
import scipy.stats

from kpeft.layers import FastDropout
from kpeft.ops import random_bits


def bits(seed: int, count: int, size: int = 1 << 18) -> np.ndarray:
    return np.asarray(random_bits(jnp.asarray([seed, count], jnp.uint32), (size,)))


@pytest.mark.parametrize("key", [(0, 0), (1, 0), (0, 1), (2**31, 7)])
def test_bits_are_uniform_and_uncorrelated(key: tuple[int, int]) -> None:
    values = bits(*key)
    assert scipy.stats.kstest(values / 2**32, "uniform").pvalue > 1e-4
    ones = ((values[:, None] >> np.arange(32)) & 1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.006
    for lag in (1, 2, 12, 64, 384, 4096):
        assert abs(np.corrcoef(values[lag:], values[:-lag])[0, 1]) < 0.012


def test_different_keys_give_unrelated_bits() -> None:
    for first, second in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((3, 5), (5, 3)), ((8, 1), (8, 2))):
        a, b = bits(*first), bits(*second)
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.012
        assert (a == b).mean() < 1e-4


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_share_scale_and_streams(rate: float) -> None:
    layer = FastDropout(rate, seed=3)
    x = np.ones((256, 1024), "float32")
    first, second = np.asarray(layer(x, training=True)), np.asarray(layer(x, training=True))
    assert set(np.unique(first)) == {np.float32(0), np.float32(1) / np.float32(1 - rate)}
    assert abs((first == 0).mean() - rate) < 0.003
    assert abs(((first == 0) & (second == 0)).mean() - rate**2) < 0.003
    np.testing.assert_array_equal(first, FastDropout(rate, seed=3)(x, training=True))
    np.testing.assert_array_equal(layer(x), x)


def test_gradient_is_the_mask() -> None:
    layer = FastDropout(0.3, seed=1)
    state = [variable.value for variable in layer.non_trainable_variables]
    x = jnp.ones((8, 16))

    def total(x: jax.Array) -> jax.Array:
        return layer.stateless_call([], state, x, training=True)[0].sum()

    np.testing.assert_array_equal(jax.grad(total)(x), layer.stateless_call([], state, x, training=True)[0])


def test_keras_config_round_trip() -> None:
    layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(FastDropout(0.2, seed=4)))
    assert (type(layer), layer.rate, layer.seed) == (FastDropout, 0.2, 4)

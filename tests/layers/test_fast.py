"""The fast layers compute what Keras's do; FastDropout: the right share, no pattern, reproducible, differentiable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import pytest
import scipy.stats

from kpeft.layers import FastDropout
from kpeft.layers.fast import FAST_LAYERS, FastLayer
from kpeft.ops import random_bits
from kpeft.sites import recast, variable_paths, walk


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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("mixed_bfloat16", 0.05)])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_recast_encoder_computes_the_same(dtype: str, tolerance: float, activation: str) -> None:
    inputs = {"x": keras.Input((None, 24), name="x"), "mask": keras.Input((None,), dtype="bool", name="mask")}
    block = keras_hub.layers.TransformerEncoder(48, 3, dropout=0.1, activation=activation, dtype=dtype)
    model = keras.Model(inputs, block(inputs["x"], padding_mask=inputs["mask"]))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    x = {"x": rng.normal(size=(5, 7, 24)).astype("float32"), "mask": np.arange(7) < rng.integers(1, 8, (5, 1))}
    before, paths = keras.ops.convert_to_numpy(keras.ops.cast(model(x), "float32")), list(variable_paths(model))
    recast(model)
    assert {type(layer) for _, layer in walk(model) if isinstance(layer, FastLayer)} == set(FAST_LAYERS)
    assert list(variable_paths(model)) == paths
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.cast(model(x), "float32")), before, atol=tolerance)

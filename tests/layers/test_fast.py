"""The fast layers compute what Keras's do; FastDropout: the right share, no pattern, reproducible, differentiable."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import pytest
import scipy.stats

from kpeft.layers import FastDropout
from kpeft.layers.fast import FAST_LAYERS, FastAttentionDropout, FastDense, FastLayer, FastMultiHeadAttention
from kpeft.ops import random_bits
from kpeft.recast import recast
from kpeft.sites import variable_paths, walk
from tests.tiny import tiny_classifier


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


@pytest.mark.parametrize(
    ("kind", "narrow", "wide"),
    [
        (FastDropout, (4, 6, 5), (4, 9, 5)),
        (FastDropout, (4, 6, 5, 5), (4, 9, 5, 5)),  # as many heads as each has elements
        (FastAttentionDropout, (4, 3, 6, 6), (4, 3, 9, 9)),
    ],
)
def test_what_is_dropped_of_a_token_does_not_depend_on_padding(
    kind: type[FastDropout], narrow: tuple[int, ...], wide: tuple[int, ...]
) -> None:
    first, second = (np.asarray(kind(0.4, seed=3)(np.ones(n, "float32"), training=True)) for n in (narrow, wide))
    np.testing.assert_array_equal(second[tuple(slice(n) for n in narrow)], first)


def test_debertas_attention_has_its_own_dropout_and_nothing_else_has() -> None:
    model = tiny_classifier("deberta_v3", dropout=0.2)
    recast(model)
    dropouts = {path: type(layer) for path, layer in walk(model) if isinstance(layer, FastDropout)}
    of_attention = {path for path, kind in dropouts.items() if kind is FastAttentionDropout}
    assert of_attention == {path for path in dropouts if path.endswith("/attention_dropout")}
    assert 0 < len(of_attention) < len(dropouts)


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
    before, paths = outputs_and_gradient(model, x), list(variable_paths(model))
    recast(model)
    assert {type(layer) for _, layer in walk(model) if isinstance(layer, FastLayer)} == set(FAST_LAYERS)
    assert list(variable_paths(model)) == paths
    # A key's bias has no gradient but for rounding, so that one measure serves for all gradients.
    scale = max(float(np.abs(np.asarray(gradient, "float32")).max()) for gradient in before[1:])
    for got, expected in zip(outputs_and_gradient(model, x), before, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(
            np.asarray(got, "float32"), np.asarray(expected, "float32"), atol=tolerance * max(1.0, scale)
        )


def outputs_and_gradient(model: keras.Model, x: dict[str, np.ndarray]) -> list[Any]:
    """Returns the outputs and the gradient of a random weighting of them by every trained variable."""
    weights = np.random.default_rng(3).normal(size=(*x["x"].shape[:2], 24))
    frozen = [variable.value for variable in model.non_trainable_variables]

    def loss(trained: list[Any]) -> Any:
        outputs, _ = model.stateless_call(trained, frozen, x, training=False)
        return (outputs.astype("float32") * weights).sum(), outputs

    trained = [variable.value for variable in model.trainable_variables]
    gradients, outputs = jax.grad(loss, has_aux=True)(trained)
    return [outputs, *gradients]


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6), (3, 1, 6), (3, 1, 6, 6)])
def test_attention_takes_masks_of_every_rank_as_keras_does(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    layer = keras.layers.MultiHeadAttention(6, 4)
    x, mask = rng.normal(size=(3, 6, 24)).astype("float32"), rng.random(shape) < 0.6
    before = layer(x, x, attention_mask=mask)
    layer.__class__ = FastMultiHeadAttention
    np.testing.assert_allclose(layer(x, x, attention_mask=mask), before, atol=1e-6)


def test_a_recast_layer_can_still_be_quantised_and_get_keras_lora() -> None:
    x = np.random.default_rng(2).normal(size=(4, 16)).astype("float32")
    for change in (lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)):
        plain = keras.layers.Dense(8, dtype="mixed_bfloat16")
        plain.build((None, 16))
        fast = FastDense.from_config(plain.get_config())
        fast.build((None, 16))
        fast.kernel.assign(plain.kernel)
        for layer in (plain, fast):
            change(layer)
        assert fast(x).dtype == plain(x).dtype
        np.testing.assert_allclose(np.asarray(fast(x), "float32"), np.asarray(plain(x), "float32"), atol=0.02)

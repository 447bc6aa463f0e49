"""Quantised layers: products and gradients against float64, ordinary Keras layers otherwise, and no copies kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import keras_hub
import numpy as np
import pytest

from kpeft.layers import (
    LoRADense,
    QuantizedDense,
    QuantizedEinsumDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)
from kpeft.layers.quantized import QUANTIZATIONS, quantized_class
from kpeft.ops import frozen_matmul
from kpeft.quantization import Blocks4

rng = np.random.default_rng(0)


def quantized(layer: Any, inputs: Any, **options: Any) -> Any:
    """Returns the quantised form of a layer with random weights."""
    layer(inputs)
    for variable in layer.weights:
        variable.assign(rng.normal(size=variable.shape))
    kind = quantized_class(type(layer))
    assert kind is not None
    made: Any = kind.of(layer, **options)
    made.build(layer.get_build_config()["input_shape"])
    made.take_weights(layer)
    return made


def float64(value: Any) -> Any:
    return keras.ops.convert_to_numpy(getattr(value, "value", value)).astype("float64")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_dense_is_the_formula_with_the_dequantised_kernel(quantization: Any, policy: Any) -> None:
    x = rng.normal(size=(2, 3, 130)).astype("float32")
    dense = keras.layers.Dense(5, activation="tanh", dtype=policy)
    layer = quantized(dense, x, quantization=quantization)
    assert np.abs(float64(layer.kernel) - float64(dense.kernel)).max() < (0.02 if quantization == "int8" else 0.5)
    expected = np.tanh(x @ float64(layer.kernel) + float64(layer.bias))
    assert layer(x).dtype == dense(x).dtype
    np.testing.assert_allclose(float64(layer(x)), expected, atol=1e-5 if policy == "float32" else 0.15)


@pytest.mark.parametrize(
    ("equation", "output_shape", "bias_axes", "shape"),
    [("abc,cde->abde", (None, 3, 4), "de", (2, 3, 70)), ("abcd,cde->abe", (None, 6), "e", (2, 3, 5, 14))],
)
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_einsum_dense_is_the_formula(
    quantization: Any, equation: Any, output_shape: Any, bias_axes: Any, shape: Any
) -> None:
    x = rng.normal(size=shape).astype("float32")
    dense = keras.layers.EinsumDense(equation, output_shape, bias_axes=bias_axes)
    layer = quantized(dense, x, quantization=quantization)
    assert isinstance(layer, QuantizedEinsumDense)
    expected = np.einsum(equation, x.astype("float64"), float64(layer.kernel)) + float64(layer.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_gradients_pass_through(quantization: Any) -> None:
    x = rng.normal(size=(4, 70)).astype("float32")
    layer = quantized(keras.layers.Dense(6), x, quantization=quantization)
    g = rng.normal(size=(4, 6)).astype("float32")
    dx = jax.grad(lambda x: jnp.sum(layer(x) * g))(jnp.asarray(x))
    np.testing.assert_allclose(dx, g @ float64(layer.kernel).T, rtol=1e-5, atol=1e-4)
    assert [v.name for v in layer.trainable_variables] == ["bias"]


def test_no_dequantised_kernel_is_kept_for_the_backward_pass() -> None:
    form, depth, width = Blocks4((256, 256), "nf4"), 12, 256
    stored = [
        [jnp.asarray(a) for a in form.encode(rng.normal(size=form.shape).astype("float32"))] for _ in range(depth)
    ]

    def loss(x: Any, stored: Any, product: Any) -> Any:
        for each in stored:
            x = jnp.tanh(product(x, each))
        return x.sum()

    def temporary(product: Any) -> int:
        step = jax.jit(jax.grad(lambda x, stored: loss(x, stored, product)))
        analysis = step.lower(jnp.zeros((8, width)), stored).compile().memory_analysis()
        assert analysis is not None
        return int(analysis.temp_size_in_bytes)

    kernels = depth * width * width * 4
    assert temporary(lambda x, each: x @ form.matrix(each)) > kernels
    assert temporary(lambda x, each: frozen_matmul(x, each, form.matrix)) < kernels / 2


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_embeddings_are_rows_of_the_table(policy: Any) -> None:
    ids = rng.integers(0, 20, (3, 4))
    for plain, kind in (
        (keras.layers.Embedding(20, 6, dtype=policy), QuantizedEmbedding),
        (keras_hub.layers.ReversibleEmbedding(20, 6, dtype=policy), QuantizedReversibleEmbedding),
    ):
        layer = quantized(plain, ids)
        assert isinstance(layer, kind)
        table = float64(layer.embeddings)
        assert np.abs(table - float64(plain.embeddings)).max() <= np.abs(table).max() / 254 * 1.01
        assert layer(ids).dtype == plain(ids).dtype
        np.testing.assert_allclose(float64(layer(ids)), table[ids], atol=1e-6 if policy == "float32" else 0.02)
    hidden = rng.normal(size=(3, 6)).astype("float32")
    if policy == "float32":
        np.testing.assert_allclose(layer(hidden, reverse=True), hidden @ table.T, atol=1e-5)


def test_position_embeddings_are_rows_of_the_table() -> None:
    x = rng.normal(size=(2, 5, 6)).astype("float32")
    plain = keras_hub.layers.PositionEmbedding(9)
    layer = quantized(plain, x)
    table = float64(layer.position_embeddings)
    assert 0 < np.abs(table - float64(plain.position_embeddings)).max() <= np.abs(table).max() / 254 * 1.01
    np.testing.assert_allclose(layer(x), np.broadcast_to(table[:5], x.shape), atol=1e-6)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_keras_file_holds_every_bit(quantization: Any, tmp_path: Any) -> None:
    ids = np.arange(12).reshape(3, 4)
    tables = quantized(keras.layers.Embedding(12, 70), ids, quantization=quantization)
    x = tables(ids)
    heads = quantized(
        keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"), x, quantization=quantization
    )
    dense = quantized(keras.layers.Dense(5, activation="relu"), heads(x), quantization=quantization, block_size=32)
    adapted = LoRADense(dense, rank=2)
    model = keras.Sequential([keras.Input((4,), dtype="int32"), tables, heads, adapted])
    adapted.lora_b.assign(rng.normal(size=adapted.lora_b.shape))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in again.layers] == [QuantizedEmbedding, QuantizedEinsumDense, LoRADense]
    assert isinstance(again.layers[-1].base, QuantizedDense)
    for variable, other in zip(model.variables, again.variables, strict=True):
        assert variable.dtype == other.dtype
        np.testing.assert_array_equal(variable, other)
    np.testing.assert_array_equal(again(ids), model(ids))


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"quantization must be one of int8, int4, nf4. Received: quantization='fp4'"):
        QuantizedDense(4, quantization="fp4")
    with pytest.raises(ValueError, match=r"block_size must be at least 2. Received: block_size=1"):
        QuantizedDense(4, block_size=1)


def test_what_someone_else_derived_is_left_alone() -> None:
    class Other(keras.layers.Dense):
        pass

    assert quantized_class(Other) is None

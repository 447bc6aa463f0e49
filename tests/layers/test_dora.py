"""DoRA layers against the formula in float64, their gradients against the obvious dense form's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from kpeft.layers import DoRADense, DoRAEinsumDense

rng = np.random.default_rng(0)


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate" and "seed" not in variable.name:
            variable.assign(rng.normal(size=variable.shape))


def dense_kernel(layer: Any) -> Any:
    """m (W + s A B) / ||W + s A B||, in float64."""
    axes = tuple(range(layer.lora_a.value.ndim - 1))
    change = layer.scaling * np.tensordot(float64(layer.lora_a), float64(layer.lora_b), 1)
    whole = float64(layer.base.kernel) + change
    return float64(layer.magnitude) * whole / np.sqrt((whole**2).sum(axes))


def make_dense(**options: Any) -> tuple[Any, Any]:
    layer = DoRADense(keras.layers.Dense(5, activation="tanh"), rank=3, alpha=4, **options)
    x = rng.normal(size=(4, 7)).astype("float32")
    layer(x)
    randomize(layer)
    return layer, x


@pytest.mark.parametrize("use_rslora", [False, True])
def test_dense_is_the_formula(use_rslora: Any) -> None:
    layer, x = make_dense(use_rslora=use_rslora)
    expected = np.tanh(x @ dense_kernel(layer) + float64(layer.base.bias))
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("equation", "shape", "output_shape", "bias_axes", "magnitude"),
    [
        ("abc,cde->abde", (2, 3, 8), (None, 2, 4), "de", (2, 4)),
        ("abcd,cde->abe", (2, 3, 2, 4), (None, 8), "e", (8,)),
    ],
)
def test_einsum_dense_is_the_formula_merged_too(
    equation: Any, shape: Any, output_shape: Any, bias_axes: Any, magnitude: Any
) -> None:
    base = keras.layers.EinsumDense(equation, output_shape=output_shape, bias_axes=bias_axes)
    layer = DoRAEinsumDense(base, rank=2, alpha=3)
    x = rng.normal(size=shape)
    layer(x)
    randomize(layer)
    kernel, adapted = float64(base.kernel), np.asarray(layer(x))
    assert layer.magnitude.shape == magnitude
    expected = np.einsum(equation, x, dense_kernel(layer)) + float64(base.bias)
    np.testing.assert_allclose(adapted, expected, rtol=2e-5, atol=2e-5)
    layer.merge()
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    layer.unmerge()
    np.testing.assert_array_equal(float64(base.kernel), kernel)
    np.testing.assert_array_equal(layer(x), adapted)


def test_starts_equal_to_the_base() -> None:
    base = keras.layers.Dense(5)
    x = rng.normal(size=(2, 7)).astype("float32")
    expected = base(x)
    layer = DoRADense(base, rank=2)
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_allclose(layer.magnitude, np.linalg.norm(float64(base.kernel), axis=0), rtol=1e-6)
    assert [v.name for v in layer.trainable_variables] == ["lora_a", "lora_b", "magnitude"]


def test_gradients_are_the_dense_forms_with_the_norm_detached() -> None:
    layer, x = make_dense()
    weights = jnp.asarray(rng.normal(size=(4, 5)), "float32")
    kernel, bias, scaling = layer.base.kernel.value, layer.base.bias.value, layer.scaling

    def dense(trained: Any, x: Any) -> Any:
        a, b, magnitude = trained
        whole = kernel + scaling * a @ b
        norm = jax.lax.stop_gradient(jnp.linalg.norm(whole, axis=0))
        return (jnp.tanh(x @ (magnitude * whole / norm) + bias) * weights).sum()

    def split(trained: Any, x: Any) -> Any:
        frozen = [v.value for v in layer.non_trainable_variables]
        return (layer.stateless_call(trained, frozen, x, training=True)[0] * weights).sum()

    trained = [v.value for v in layer.trainable_variables]
    got, expected = (jax.grad(f, argnums=(0, 1))(trained, jnp.asarray(x)) for f in (split, dense))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.abs(other).max() > 0.01
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_dropout_leaves_the_bases_own_part_alone() -> None:
    """y = x W + (g - 1)·x' W + g·s·x' A B for the x' that the layer's own dropout draws."""
    layer, x = make_dense(dropout=0.5, seed=1)
    state = layer.dropout.seed_generator.state
    before = np.asarray(state.value)
    got = np.asarray(layer(x, training=True))
    state.assign(before)
    dropped = np.asarray(layer.dropout(x, training=True), "float64")
    assert (dropped == 0).any()
    kernel = float64(layer.base.kernel)
    expected = np.tanh(x @ kernel + dropped @ (dense_kernel(layer) - kernel) + float64(layer.base.bias))
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("merged", [False, True])
def test_keras_file(tmp_path: Any, merged: Any) -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, DoRADense(keras.layers.Dense(6), rank=3, alpha=5, name="adapted")(inputs))
    layer = model.get_layer("adapted")
    randomize(layer)
    if merged:
        layer.merge()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 8)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    if merged:
        with pytest.raises(ValueError, match="loaded merged"):
            again.get_layer("adapted").unmerge()


def test_bfloat16_sums_in_float32() -> None:
    layer = DoRADense(keras.layers.Dense(6, dtype="mixed_bfloat16"), rank=3)
    x = rng.normal(size=(2, 256)).astype("float32")
    assert layer(x).dtype == "bfloat16"
    randomize(layer)
    assert layer.magnitude.dtype == "float32"
    expected = x @ dense_kernel(layer) + float64(layer.base.bias)
    np.testing.assert_allclose(np.asarray(layer(x), "float32"), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_options_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="lora_bias=True"):
        DoRADense(keras.layers.Dense(3), lora_bias=True)
    with pytest.raises(ValueError, match="ab,bcd->adc"):
        DoRAEinsumDense(keras.layers.EinsumDense("ab,bcd->adc", (4, 3)), rank=2)(np.ones((2, 5)))

"""(IA)³ layers against the formula in float64, and as ordinary Keras layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.layers import IA3Linear

rng = np.random.default_rng(0)
RELU: Any = lambda v: np.maximum(v, 0)  # noqa: E731
LAYERS: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "dense": (lambda: keras.layers.Dense(5, activation="relu"), (2, 3, 7), RELU),
    "no-bias": (lambda: keras.layers.Dense(5, use_bias=False), (2, 3, 7), lambda v: v),
    "query": (lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), (2, 3, 8), lambda v: v),
    "output": (lambda: keras.layers.EinsumDense("abcd,cde->abe", (None, 8), bias_axes="e"), (2, 3, 2, 4), lambda v: v),
}


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate":
            variable.assign(rng.normal(size=variable.shape))


@pytest.mark.parametrize("scale_inputs", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_is_the_formula_merged_too(name: str, scale_inputs: bool) -> None:
    make, shape, activation = LAYERS[name]
    layer = IA3Linear(make(), scale_inputs=scale_inputs)
    x = rng.normal(size=shape)
    layer(x)
    randomize(layer)
    kernel, scale = float64(layer.base.kernel), float64(layer.scale)
    bias = 0.0 if layer.base.bias is None else float64(layer.base.bias)
    axes = x.ndim - 2
    assert scale.shape == (kernel.shape[:axes] if scale_inputs else kernel.shape[axes:])
    if scale_inputs:
        expected = activation(np.tensordot(x * scale, kernel, axes) + bias)
    else:
        expected = activation(scale * (np.tensordot(x, kernel, axes) + bias))
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    layer.merge()
    np.testing.assert_allclose(layer.base(x), expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    layer.unmerge()
    np.testing.assert_array_equal(float64(layer.base.kernel), kernel)
    np.testing.assert_array_equal(0.0 if layer.base.bias is None else float64(layer.base.bias), bias)


def test_starts_equal_to_the_base_and_only_the_scale_trains() -> None:
    base = keras.layers.Dense(5, activation="gelu")
    x = rng.normal(size=(2, 7)).astype("float32")
    expected = base(x)
    layer = IA3Linear(base)
    np.testing.assert_array_equal(layer(x), expected)
    assert [v.name for v in layer.trainable_variables] == ["ia3_scale"]
    randomize(layer)
    assert np.abs(np.asarray(layer(x) - base(x))).max() > 0.1
    layer.disable()
    np.testing.assert_array_equal(layer(x), base(x))


@pytest.mark.parametrize("scale_inputs", [False, True])
@pytest.mark.parametrize("merged", [False, True])
def test_keras_file_keeps_everything(tmp_path: Any, merged: bool, scale_inputs: bool) -> None:
    inputs = keras.Input((8,))
    outputs = IA3Linear(keras.layers.Dense(6), scale_inputs=scale_inputs, name="adapted")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(outputs))
    layer = model.get_layer("adapted")
    randomize(layer)
    kernel, bias = float64(layer.base.kernel), float64(layer.base.bias)
    if merged:
        layer.merge()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 8)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    loaded = again.get_layer("adapted")
    assert (loaded.scale_inputs, loaded.merged) == (scale_inputs, merged)
    if merged:
        loaded.unmerge()
        np.testing.assert_allclose(float64(loaded.base.kernel), kernel, rtol=1e-5)
        np.testing.assert_allclose(float64(loaded.base.bias), bias, rtol=1e-5)


def test_a_scale_of_zero_cannot_be_taken_out_of_a_file() -> None:
    layer = IA3Linear(keras.layers.Dense(3), merged=True)
    layer.build((None, 4))
    layer.scale.assign([1.0, 0.0, 2.0])
    with pytest.raises(ValueError, match="scale of 0"):
        layer.unmerge()


def test_dtype_policy_is_the_bases() -> None:
    layer = IA3Linear(keras.layers.Dense(6, dtype="mixed_bfloat16"))
    x = rng.normal(size=(2, 8)).astype("float32")
    assert layer(x).dtype == "bfloat16"
    assert layer.scale.dtype == "float32"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IA3Linear(keras.layers.Dropout(0.1)), "Received: <Dropout"),
        (lambda: IA3Linear(keras.layers.EinsumDense("ab,bc->abc", (None, 3))), "Received: 'ab,bc->abc'"),
        (
            lambda: IA3Linear(keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="e"))(
                np.zeros((1, 2, 3))
            ),
            r"bias of shape \(2, 4\).*Received: \(4,\)",
        ),
    ],
)
def test_errors_say_what_was_received(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

"""Bottleneck layers against the formula in float64, and as ordinary Keras layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.layers import ParallelDown, ParallelUp, SequentialBottleneck

rng = np.random.default_rng(0)


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate":
            variable.assign(rng.normal(size=variable.shape))


def relu(x: Any) -> Any:
    return np.maximum(x, 0)


def gelu(x: Any) -> Any:
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


@pytest.mark.parametrize(("activation", "function"), [("gelu", gelu), ("relu", relu), ("tanh", np.tanh)])
@pytest.mark.parametrize("heads", [False, True])
def test_sequential_is_the_formula(activation: str, function: Any, heads: bool) -> None:
    base: Any = keras.layers.Dense(5)
    if heads:
        base = keras.layers.EinsumDense("abcd,cde->abe", (None, 5), bias_axes="e")
    layer = SequentialBottleneck(base, size=3, activation=activation, scale=2.0)
    x = rng.normal(size=(2, 3, 2, 4) if heads else (2, 3, 7))
    layer(x)
    randomize(layer)
    hidden = np.tensordot(x, float64(base.kernel), x.ndim - 2) + float64(base.bias)
    inner = function(hidden @ float64(layer.down_kernel) + float64(layer.down_bias))
    expected = hidden + 2 * (inner @ float64(layer.up_kernel) + float64(layer.up_bias))
    np.testing.assert_allclose(layer(x), expected, rtol=5e-5, atol=5e-5)


def parallel(size: int = 3, scale: float = 4.0, **kwargs: Any) -> tuple[Any, Any]:
    first, second = keras.layers.Dense(6, activation="relu"), keras.layers.Dense(7)
    return ParallelDown(first, size=size, activation="tanh", **kwargs), ParallelUp(second, size=size, scale=scale)


def test_parallel_is_the_formula() -> None:
    down, up = parallel()
    x = rng.normal(size=(2, 3, 7))
    assert down.compute_output_shape((2, 3, 7)) == (2, 3, 9)
    assert up(down(x)).shape == (2, 3, 7) == up.compute_output_shape((2, 3, 9))
    randomize(down)
    randomize(up)
    hidden = relu(x @ float64(down.base.kernel) + float64(down.base.bias))
    inner = np.tanh(x @ float64(down.down_kernel) + float64(down.down_bias))
    feedforward = hidden @ float64(up.base.kernel) + float64(up.base.bias)
    expected = feedforward + 4 * (inner @ float64(up.up_kernel) + float64(up.up_bias))
    np.testing.assert_allclose(up(down(x)), expected, rtol=5e-5, atol=5e-5)
    up.disable()
    np.testing.assert_array_equal(up(down(x)), up.base(down.base(x)))


def test_starts_equal_to_the_base_and_only_the_adapter_trains() -> None:
    base = keras.layers.Dense(5, activation="gelu")
    x = rng.normal(size=(2, 7)).astype("float32")
    expected = base(x)
    layer = SequentialBottleneck(base, size=3)
    np.testing.assert_array_equal(layer(x), expected)
    names = ["down_kernel", "down_bias", "up_kernel", "up_bias"]
    assert [v.name for v in layer.trainable_variables] == names
    assert 0.2 < np.abs(float64(layer.down_kernel)).max() <= 1 / np.sqrt(5)
    down, up = parallel()
    np.testing.assert_array_equal(up(down(x)), up.base(down.base(x)))
    assert [v.name for v in [*down.trainable_variables, *up.trainable_variables]] == names


def test_keras_file_keeps_everything_and_trains_on(tmp_path: Any) -> None:
    inputs = keras.Input((7,))
    down, up = parallel(name="down")
    hidden = up(down(SequentialBottleneck(keras.layers.Dense(7), size=2, activation="silu", name="one")(inputs)))
    model = keras.Model(inputs, hidden)
    for layer in model.layers[1:]:
        randomize(layer)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 7)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    again.compile("sgd", "mse")
    again.fit(x, np.ones((4, 7)), verbose=0)
    for loaded, layer in zip(again.layers[1:], model.layers[1:], strict=True):
        for moved, start in zip(loaded.trainable_variables, layer.trainable_variables, strict=True):
            assert np.abs(float64(moved) - float64(start)).max() > 0
        np.testing.assert_array_equal(float64(loaded.base.kernel), float64(layer.base.kernel))


def test_dtype_policy_is_the_bases() -> None:
    x = np.ones((2, 8), "float32")
    layer = SequentialBottleneck(keras.layers.Dense(6, dtype="mixed_bfloat16"), size=3)
    assert layer(x).dtype == "bfloat16"
    assert layer.up_kernel.dtype == "float32"
    down = ParallelDown(keras.layers.Dense(6, dtype="mixed_bfloat16"), size=3)
    up = ParallelUp(keras.layers.Dense(8, dtype="mixed_bfloat16"), size=3)
    assert (down(x).dtype, up(down(x)).dtype) == ("bfloat16", "bfloat16")


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="size=0"):
        SequentialBottleneck(keras.layers.Dense(3), size=0)

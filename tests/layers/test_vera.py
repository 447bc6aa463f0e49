"""VeRA layers against the formula in float64, and as ordinary Keras layers that share their matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.layers import VeRALinear, VeRAProjection

rng = np.random.default_rng(0)
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "dense": (lambda: keras.layers.Dense(5, activation="tanh"), (2, 3, 7)),
    "query": (lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"), (2, 3, 8)),
    "output": (lambda: keras.layers.EinsumDense("abcd,cde->abe", (None, 8), bias_axes="e"), (2, 3, 2, 4)),
}


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name not in ("gate", "vera_a", "vera_b"):
            variable.assign(rng.normal(size=variable.shape))


def projection(rank: int = 3, seed: int = 0) -> VeRAProjection:
    return VeRAProjection(rank=rank, features_in=9, features_out=11, seed=seed)


@pytest.mark.parametrize("name", LAYERS)
def test_is_the_formula_merged_too(name: str) -> None:
    make, shape = LAYERS[name]
    layer = VeRALinear(make(), projection=projection())
    x = rng.normal(size=shape)
    layer(x)
    randomize(layer)
    kernel, axes = float64(layer.base.kernel), x.ndim - 2
    inputs, outputs = int(np.prod(kernel.shape[:axes])), int(np.prod(kernel.shape[axes:]))
    a = float64(layer.projection.vera_a)[:inputs] * float64(layer.lambda_d)
    b = float64(layer.projection.vera_b)[:, :outputs] * float64(layer.lambda_b).reshape(-1)
    expected = np.tensordot(x, kernel + (a @ b).reshape(kernel.shape), axes) + float64(layer.base.bias)
    expected = np.tanh(expected) if name == "dense" else expected
    np.testing.assert_allclose(layer(x), expected, rtol=5e-5, atol=5e-5)
    layer.merge()
    np.testing.assert_allclose(layer.base(x), expected, rtol=5e-5, atol=5e-5)
    layer.unmerge()
    np.testing.assert_array_equal(float64(layer.base.kernel), kernel)


def test_the_matrices_are_frozen_and_decided_by_the_seed() -> None:
    one, same, other = projection(seed=1), projection(seed=1), projection(seed=2)
    for each in (one, same, other):
        each.build()
        assert each.trainable_variables == []
        assert np.abs(float64(each.vera_a)).max() <= np.sqrt(6 / 9) < 1.2 * np.abs(float64(each.vera_a)).max()
        assert np.abs(float64(each.vera_b)).max() <= np.sqrt(6 / 3) < 1.2 * np.abs(float64(each.vera_b)).max()
    np.testing.assert_array_equal(one.vera_a, same.vera_a)
    np.testing.assert_array_equal(one.vera_b, same.vera_b)
    assert np.abs(float64(one.vera_a) - float64(other.vera_a)).max() > 0.1


def test_starts_equal_to_the_base_and_only_the_scales_train() -> None:
    base = keras.layers.Dense(5)
    x = rng.normal(size=(2, 7)).astype("float32")
    expected = base(x)
    layer = VeRALinear(base, projection=projection(), d_initial=0.2)
    np.testing.assert_array_equal(layer(x), expected)
    assert {v.name: v.shape for v in layer.trainable_variables} == {"vera_lambda_d": (3,), "vera_lambda_b": (5,)}
    np.testing.assert_array_equal(layer.lambda_d, np.full(3, 0.2, "float32"))


def test_dropout_acts_on_the_adapters_input_only() -> None:
    layer = VeRALinear(keras.layers.Dense(5), projection=projection(), dropout=0.5, seed=1)
    x = np.ones((600, 8), "float32")
    layer(x)
    randomize(layer)
    base = np.asarray(layer.base(x))
    plain, dropped = np.asarray(layer(x)) - base, np.asarray(layer(x, training=True)) - base
    assert np.ptp(dropped[:, 0]) > 0.1
    np.testing.assert_allclose(dropped.mean(0), plain.mean(0), atol=0.2 * np.abs(dropped).max())


def test_keras_file_keeps_that_layers_share_the_matrices(tmp_path: Any) -> None:
    inputs, shared = keras.Input((8,)), projection()
    hidden = VeRALinear(keras.layers.Dense(6, activation="relu"), projection=shared, name="one")(inputs)
    model = keras.Model(inputs, VeRALinear(keras.layers.Dense(4), projection=shared, name="two")(hidden))
    assert sum(v.name in ("vera_a", "vera_b") for v in model.weights) == 2
    for name in ("one", "two"):
        randomize(model.get_layer(name))
    shared.vera_a.assign(rng.normal(size=shared.vera_a.shape))  # as after loading another's matrices
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 8)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.get_layer("one").projection is again.get_layer("two").projection
    before = float64(again.get_layer("one").projection.vera_b)
    again.compile("sgd", "mse")
    again.fit(x, np.ones((4, 4)), verbose=0)
    np.testing.assert_array_equal(float64(again.get_layer("one").projection.vera_b), before)
    for name in ("one", "two"):
        loaded, layer = again.get_layer(name), model.get_layer(name)
        assert np.abs(float64(loaded.lambda_b) - float64(layer.lambda_b)).max() > 0


def test_dtype_policy_is_the_bases() -> None:
    layer = VeRALinear(keras.layers.Dense(6, dtype="mixed_bfloat16"), projection=projection())
    assert layer(np.ones((2, 8), "float32")).dtype == "bfloat16"
    assert layer.lambda_b.dtype == "float32"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VeRAProjection(rank=0, features_in=2, features_out=2), "rank=0"),
        (lambda: VeRALinear(keras.layers.Dense(3), projection=projection(), dropout=1.0), "dropout=1.0"),
        (lambda: VeRALinear(keras.layers.Dropout(0.1), projection=projection()), "Received: <Dropout"),
        (
            lambda: VeRALinear(keras.layers.Dense(12), projection=projection())(np.ones((2, 8))),
            "maps 8 features to 12.*features_out=11",
        ),
    ],
)
def test_errors_say_what_was_received(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

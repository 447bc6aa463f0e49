"""LoRA layers against the formula in float64, and as ordinary Keras layers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.layers import LoRADense, LoRAEinsumDense

rng = np.random.default_rng(0)


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate":
            variable.assign(rng.normal(size=variable.shape))


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_dense_is_the_formula(activation: Any, use_rslora: Any) -> None:
    layer = LoRADense(keras.layers.Dense(5, activation=activation), rank=4, alpha=6, use_rslora=use_rslora)
    x = rng.normal(size=(2, 3, 7))
    layer(x)
    randomize(layer)
    scale = 6 / (2 if use_rslora else 4)
    expected = x @ float64(layer.base.kernel) + scale * (x @ float64(layer.lora_a)) @ float64(layer.lora_b)
    expected = expected + float64(layer.base.bias)
    functions: dict[str | None, Any] = {"relu": lambda v: np.maximum(v, 0), "tanh": np.tanh, None: lambda v: v}
    expected = functions[activation](expected)
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("equation", "shape", "output_shape", "bias_axes", "lora_a", "lora_b"),
    [
        ("abc,cde->abde", (2, 3, 8), (None, 2, 4), "de", (8, 2), (2, 2, 4)),
        ("abcd,cde->abe", (2, 3, 2, 4), (None, 8), "e", (2, 4, 2), (2, 8)),
        ("...c,cd->...d", (2, 3, 8), (5,), None, (8, 2), (2, 5)),
    ],
)
def test_einsum_dense_is_the_formula(
    equation: Any, shape: Any, output_shape: Any, bias_axes: Any, lora_a: Any, lora_b: Any
) -> None:
    layer = LoRAEinsumDense(
        keras.layers.EinsumDense(equation, output_shape=output_shape, bias_axes=bias_axes), rank=2, alpha=3
    )
    x = rng.normal(size=shape)
    layer(x)
    randomize(layer)
    assert (layer.lora_a.shape, layer.lora_b.shape) == (lora_a, lora_b)
    change = 1.5 * np.tensordot(float64(layer.lora_a), float64(layer.lora_b), 1)
    expected = np.einsum(equation, x, float64(layer.base.kernel) + change)
    if bias_axes:
        expected = expected + float64(layer.base.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    layer.merge()
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    assert np.linalg.matrix_rank(change.reshape(int(np.prod(lora_a[:-1])), -1)) == 2


def test_starts_equal_to_the_base_and_only_the_factors_train() -> None:
    base = keras.layers.Dense(5)
    x = rng.normal(size=(2, 7)).astype("float32")
    expected = base(x)
    layer = LoRADense(base, rank=2)
    np.testing.assert_array_equal(layer(x), expected)
    assert [v.name for v in layer.trainable_variables] == ["lora_a", "lora_b"]
    a = float64(layer.lora_a)
    assert np.abs(a).max() <= 1 / np.sqrt(7) < 1.5 * np.abs(a).max()


def test_no_gradient_of_the_kernel_is_computed() -> None:
    import jax

    layer = LoRADense(keras.layers.Dense(256), rank=4)
    x = np.zeros((128, 256), "float32")
    layer(x)
    frozen = [v.value for v in layer.non_trainable_variables]

    def flops(wrt_kernel: Any) -> Any:
        def loss(trained: Any, kernel: Any) -> Any:
            values = [
                kernel if v is layer.base.kernel else f
                for v, f in zip(layer.non_trainable_variables, frozen, strict=True)
            ]
            return layer.stateless_call(trained, values, x, training=True)[0].sum()

        gradient = jax.grad(loss, argnums=(0, 1) if wrt_kernel else 0)
        trained = [v.value for v in layer.trainable_variables]
        compiled: Any = jax.jit(gradient).lower(trained, layer.base.kernel.value).compile()
        return compiled.cost_analysis()["flops"]

    assert flops(False) < 0.7 * flops(True)


def test_dropout_acts_on_the_adapters_input_only() -> None:
    layer = LoRADense(keras.layers.Dense(6), rank=3, dropout=0.5, seed=1)
    x = np.ones((400, 8), "float32")
    layer(x)
    randomize(layer)
    base = x @ float64(layer.base.kernel) + float64(layer.base.bias)
    plain, dropped = np.asarray(layer(x)) - base, np.asarray(layer(x, training=True)) - base
    assert np.ptp(dropped[:, 0]) > 0.1
    np.testing.assert_allclose(dropped.mean(0), plain.mean(0), atol=0.35 * np.abs(dropped).max())
    # Each dropped row is the change of an input that is 0 or 2.
    rank_three = np.linalg.lstsq(float64(layer.lora_b).T, dropped.T, rcond=None)[0]
    np.testing.assert_allclose(float64(layer.lora_b).T @ rank_three, dropped.T, atol=1e-4)


def test_merge_and_unmerge() -> None:
    layer = LoRADense(keras.layers.Dense(6), rank=3)
    x = rng.normal(size=(4, 8)).astype("float32")
    layer(x)
    randomize(layer)
    kernel, expected = float64(layer.base.kernel), np.asarray(layer(x))
    with pytest.raises(ValueError, match="not merged"):
        layer.unmerge()
    layer.merge()
    assert np.abs(float64(layer.base.kernel) - kernel).max() > 0.1
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="merged already"):
        layer.merge()
    layer.unmerge()
    np.testing.assert_array_equal(float64(layer.base.kernel), kernel)
    np.testing.assert_array_equal(layer(x), expected)


@pytest.mark.parametrize("merged", [False, True])
def test_keras_file_keeps_everything_and_trains_on(tmp_path: Any, merged: Any) -> None:
    inputs = keras.Input((8,))
    hidden = LoRADense(keras.layers.Dense(6, activation="relu"), rank=3, alpha=5, dropout=0.1, name="adapted")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    x, y = rng.normal(size=(16, 8)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")
    layer = model.get_layer("adapted")
    randomize(layer)
    if merged:
        layer.merge()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    loaded = again.get_layer("adapted")
    assert (loaded.rank, loaded.alpha, loaded.scaling, loaded.merged) == (3, 5, 5 / 3, merged)
    np.testing.assert_array_equal(float64(loaded.lora_a), float64(layer.lora_a))
    np.testing.assert_array_equal(float64(loaded.lora_b), float64(layer.lora_b))
    if merged:
        loaded.unmerge()
        layer.unmerge()
        np.testing.assert_allclose(float64(loaded.base.kernel), float64(layer.base.kernel), atol=1e-5)
        return
    kernel = float64(loaded.base.kernel)
    again.compile("sgd", "mse")
    again.fit(x, y, verbose=0)
    assert np.abs(float64(loaded.lora_a) - float64(layer.lora_a)).max() > 0
    assert np.abs(float64(loaded.lora_b) - float64(layer.lora_b)).max() > 0
    np.testing.assert_array_equal(float64(loaded.base.kernel), kernel)


def test_dtype_policy_is_the_bases() -> None:
    layer = LoRADense(keras.layers.Dense(6, dtype="mixed_bfloat16"), rank=3)
    assert layer(np.ones((2, 8), "float32")).dtype == "bfloat16"
    assert layer.lora_a.dtype == "float32"


def test_number_of_units_makes_a_dense() -> None:
    assert LoRADense(6, rank=2)(np.ones((2, 8), "float32")).shape == (2, 6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRADense(keras.layers.Dense(3), rank=0), "rank=0"),
        (lambda: LoRADense(keras.layers.Dense(3), dropout=1.0), "dropout=1.0"),
        (lambda: LoRADense(keras.layers.Dropout(0.1)), "Received: <Dropout"),
        (lambda: LoRADense(keras.layers.Dense(3), rank=4, init="pissa")(np.ones((2, 8))), "at most 3.*rank=4"),
        (lambda: LoRAEinsumDense(keras.layers.EinsumDense("ab,bc->abc", (None, 3))), "equation='ab,bc->abc'"),
    ],
)
def test_errors_say_what_was_received(make: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_whole_numbers_do_not_round_the_kernel() -> None:
    base = keras.layers.Dense(4)
    layer = LoRADense(base, rank=2)
    x = np.arange(32, dtype="int32").reshape(2, 16)
    layer.build(x.shape)
    expected = x @ np.asarray(base.kernel, np.float64) + np.asarray(base.bias)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)

"""AdaLoRA layers against the formula in float64, alone, merged, in .keras files and under bfloat16."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.layers import AdaLoRADense, AdaLoRAEinsumDense

rng = np.random.default_rng(0)


def float64(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value).astype("float64")


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate" and "seed" not in variable.name:
            variable.assign(rng.normal(size=variable.shape))


def whole_kernel(layer: Any, scaling: float) -> Any:
    """W + s·A·diag(e)·B in float64."""
    change = np.einsum("...r,r,rz->...z", float64(layer.lora_a), float64(layer.lora_e), flat(layer.lora_b))
    return float64(layer.base.kernel) + scaling * change.reshape(layer.base.kernel.shape)


def flat(b: Any) -> Any:
    return float64(b).reshape(b.shape[0], -1)


def test_dense_is_the_formula() -> None:
    layer = AdaLoRADense(keras.layers.Dense(5, activation="tanh"), rank=3, alpha=4)
    x = rng.normal(size=(4, 7)).astype("float32")
    layer(x)
    randomize(layer)
    expected = np.tanh(x @ whole_kernel(layer, 4 / 3) + float64(layer.base.bias))
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=2e-5, atol=2e-5)
    layer.disable()
    np.testing.assert_allclose(layer(x), layer.base(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("equation", "shape", "output_shape", "bias_axes"),
    [("abc,cde->abde", (2, 3, 8), (None, 2, 4), "de"), ("abcd,cde->abe", (2, 3, 2, 4), (None, 8), "e")],
)
def test_einsum_dense_is_the_formula_merged_too(equation: Any, shape: Any, output_shape: Any, bias_axes: Any) -> None:
    base = keras.layers.EinsumDense(equation, output_shape=output_shape, bias_axes=bias_axes)
    layer = AdaLoRAEinsumDense(base, rank=2, alpha=3)
    x = rng.normal(size=shape)
    layer(x)
    randomize(layer)
    kernel, adapted = float64(base.kernel), np.asarray(layer(x))
    expected = np.einsum(equation, x, whole_kernel(layer, 1.5)) + float64(base.bias)
    np.testing.assert_allclose(adapted, expected, rtol=2e-5, atol=2e-5)
    layer.merge()
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=2e-5)
    layer.unmerge()
    np.testing.assert_array_equal(float64(base.kernel), kernel)
    np.testing.assert_array_equal(layer(x), adapted)


def test_starts_equal_to_the_base_with_pefts_spread() -> None:
    base = keras.layers.Dense(200)
    x = rng.normal(size=(2, 100)).astype("float32")
    expected = base(x)
    layer, again = AdaLoRADense(base, rank=12, seed=5), AdaLoRADense(keras.layers.Dense(200), rank=12, seed=5)
    np.testing.assert_array_equal(layer(x), expected)
    again(x)
    assert [v.name for v in layer.trainable_variables] == ["lora_a", "lora_b", "lora_e"]
    for factor, same in ((layer.lora_a, again.lora_a), (layer.lora_b, again.lora_b)):
        assert np.std(factor) == pytest.approx(0.02, rel=0.1)
        assert np.mean(factor) == pytest.approx(0, abs=0.003)
        np.testing.assert_array_equal(factor, same)
    assert not np.array_equal(np.ravel(layer.lora_a)[:50], np.ravel(layer.lora_b)[:50])
    assert not np.any(layer.lora_e)


def test_keras_file(tmp_path: Any) -> None:
    inputs = keras.Input((8,))
    model = keras.Model(inputs, AdaLoRADense(keras.layers.Dense(6), rank=3, alpha=5, name="adapted")(inputs))
    randomize(model.get_layer("adapted"))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 8)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_bfloat16_sums_in_float32() -> None:
    layer = AdaLoRADense(keras.layers.Dense(6, dtype="mixed_bfloat16"), rank=3)
    x = rng.normal(size=(2, 256)).astype("float32")
    assert layer(x).dtype == "bfloat16"
    randomize(layer)
    assert layer.lora_e.dtype == "float32"
    expected = x @ whole_kernel(layer, 16 / 3) + float64(layer.base.bias)
    np.testing.assert_allclose(np.asarray(layer(x), "float32"), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("option", [{"lora_bias": True}, {"use_rslora": True}, {"init": "pissa"}])
def test_loras_options_that_it_has_not(option: Any) -> None:
    with pytest.raises(ValueError, match=f"AdaLoRA has no {next(iter(option))}"):
        AdaLoRADense(keras.layers.Dense(3), **option)
    with pytest.raises(ValueError, match="Received: <Dense"):
        AdaLoRAEinsumDense(keras.layers.Dense(3))

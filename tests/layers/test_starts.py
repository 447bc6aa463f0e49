"""Starts of the factors, against their definitions; PEFT's own values are in tests/adapters/test_peft_goldens.py."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers import LoRADense
from kpeft.layers.starts import start

rng = np.random.default_rng(0)
MATRIX = rng.normal(size=(7, 5)).astype("float32")


def test_gaussian() -> None:
    a, b = start("gaussian", np.zeros((400, 50)), 8, 2.0, seed=3)
    assert a.shape == (400, 8)
    assert np.std(a) == pytest.approx(1 / 8, rel=0.05)
    np.testing.assert_array_equal(b, np.zeros((8, 50)))


def test_orthogonal() -> None:
    a, b = start("orthogonal", np.zeros((400, 300)), 4, 2.0, seed=3)
    np.testing.assert_allclose(a @ b, 0, atol=1e-6)
    # G Q_odd with orthonormal rows and G ~ N(0, 1): each element has variance 1/2 of G's.
    assert np.std(a) == pytest.approx(np.sqrt(0.5) / 10, rel=0.05)
    assert np.std(b) == pytest.approx(np.sqrt(0.5) / 10, rel=0.05)
    with pytest.raises(ValueError, match=r"even rank.*rank=3"):
        start("orthogonal", MATRIX, 3, 2.0, seed=0)


def test_pissa_takes_the_largest_singular_values() -> None:
    a, b = start("pissa", MATRIX, 2, 3.0, seed=None)
    values = np.linalg.svd(MATRIX.astype("float64"), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(3 * a @ b, compute_uv=False)[:2], values[:2], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(MATRIX - 3 * a @ b, compute_uv=False)[:3], values[2:], rtol=1e-5)
    np.testing.assert_allclose(a.T @ a, np.diag(values[:2] / 3), atol=1e-6)
    np.testing.assert_allclose(b @ b.T, np.diag(values[:2] / 3), atol=1e-6)


def test_olora_takes_the_first_rows_of_a_qr() -> None:
    a, b = start("olora", MATRIX, 2, 3.0, seed=None)
    np.testing.assert_allclose(b @ b.T, np.eye(2), atol=1e-6)
    np.testing.assert_allclose(a, MATRIX @ b.T, atol=1e-6)
    np.testing.assert_allclose((a @ b)[:2], MATRIX[:2], atol=1e-6)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_out_of_the_kernel(init: Any, tmp_path: Any) -> None:
    base = keras.layers.Dense(5)
    x = rng.normal(size=(3, 7)).astype("float32")
    expected = np.asarray(base(x))
    kernel = np.array(base.kernel)
    layer = LoRADense(base, rank=2, alpha=3, init=init)
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    residual = np.array(base.kernel)
    assert np.abs(residual - kernel).max() > 0.05
    layer.disable()
    np.testing.assert_array_equal(np.array(base.kernel), kernel)
    np.testing.assert_array_equal(layer(x), expected)
    layer.enable()
    np.testing.assert_array_equal(np.array(base.kernel), residual)
    layer.lora_b.assign(rng.normal(size=(2, 5)))
    model = keras.Sequential([keras.Input((7,)), layer])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_failed_adapt_puts_kernels_back() -> None:
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(2), keras.layers.Dense(3)])
    before = [np.array(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="rank must be at most 2 for init='pissa'"):
        kpeft.adapt(model, kpeft.LoRA(rank=3, init="pissa", targets=("dense", "dense_1")))
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(weight), value)


def test_unknown_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="init='eye'"):
        kpeft.LoRA(init="eye")
    with pytest.raises(ValueError, match="init='eye'"):
        LoRADense(keras.layers.Dense(5), rank=2, init="eye")(np.ones((2, 7)))
    with pytest.raises(ValueError, match="init=default only"):
        kpeft.LoRA(init="pissa", lora_bias=True)


def test_lora_bias() -> None:
    layer = LoRADense(keras.layers.Dense(5), rank=2, alpha=3, lora_bias=True)
    x = rng.normal(size=(3, 7)).astype("float32")
    layer(x)
    for variable in (layer.lora_b, layer.lora_c, layer.base.bias):
        variable.assign(rng.normal(size=variable.shape))
    kernel, bias, c = (np.array(v, "float64") for v in (layer.base.kernel, layer.base.bias, layer.lora_c))
    change = np.array(layer.lora_a, "float64") @ np.array(layer.lora_b, "float64")
    expected = x @ (kernel + 1.5 * change) + bias + 1.5 * c
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer.merge()
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)
    layer.unmerge()
    np.testing.assert_array_equal(np.array(layer.base.bias), bias)
    without = LoRADense(keras.layers.Dense(5, use_bias=False), rank=2, lora_bias=True)
    without(x)
    with pytest.raises(ValueError, match="no bias to merge"):
        without.merge()

"""LoHa and LoKr layers against their formulas in float64: every way of computing, merged, in files, in bfloat16."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from kpeft.layers import LoHaLinear, LoKrLinear
from kpeft.layers.lokr import two_factors

rng = np.random.default_rng(0)

CASES: dict[str, Any] = {
    "loha": lambda base, **options: LoHaLinear(base, rank=2, alpha=3, **options),
    "loha-dense": lambda base, **options: LoHaLinear(base, rank=5, alpha=3, **options),
    "lokr": lambda base, **options: LoKrLinear(base, rank=1, alpha=1.5, **options),
    "lokr-whole": lambda base, **options: LoKrLinear(base, rank=8, alpha=12, **options),
    "lokr-both": lambda base, **options: LoKrLinear(
        base, rank=1, alpha=1.5, decompose_both=True, decompose_factor=3, **options
    ),
}
NAMES = {
    "loha": ["loha_a1", "loha_b1", "loha_a2", "loha_b2"],
    "loha-dense": ["loha_a1", "loha_b1", "loha_a2", "loha_b2"],
    "lokr": ["lokr_w1", "lokr_a2", "lokr_b2"],
    "lokr-whole": ["lokr_w1", "lokr_w2"],
    "lokr-both": ["lokr_a1", "lokr_b1", "lokr_a2", "lokr_b2"],
}


def matrix(variable: Any, *, rows: int | None = None) -> Any:
    value = keras.ops.convert_to_numpy(variable.value).astype("float64")
    return value.reshape((rows or value.shape[0], -1))


def whole_kernel(layer: Any) -> Any:
    """W and the change, as a matrix (in, out) in float64; both methods have s = 1.5 here, but for a rank of 5: 0.6."""
    own = {variable.name: variable for variable in layer.own_trainable_variables}
    if isinstance(layer, LoHaLinear):
        inner = own["loha_a1"].value.size // layer.rank
        first, second = (matrix(own[f"loha_a{i}"], rows=inner) @ matrix(own[f"loha_b{i}"]) for i in (1, 2))
        change = (0.6 if layer.rank == 5 else 1.5) * first * second
    else:
        parts = {name: matrix(variable) for name, variable in own.items()}
        first, second = (
            parts[f"lokr_w{i}"] if f"lokr_w{i}" in parts else parts[f"lokr_a{i}"] @ parts[f"lokr_b{i}"] for i in (1, 2)
        )
        change = 1.5 * np.kron(first, second)
    return matrix(layer.base.kernel, rows=len(change)) + change


def randomize(layer: Any) -> None:
    for variable in layer.weights:
        if variable.name != "gate":
            variable.assign(rng.normal(size=variable.shape))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shape", ["dense", "abc,cde->abde", "abcd,cde->abe"])
def test_is_the_formula_merged_too(case: str, shape: str) -> None:
    base: Any
    if shape == "dense":
        base, x = keras.layers.Dense(10, activation="tanh"), rng.normal(size=(4, 12))
    elif shape == "abc,cde->abde":
        base, x = keras.layers.EinsumDense(shape, (None, 2, 5), bias_axes="de"), rng.normal(size=(2, 3, 12))
    else:
        base, x = keras.layers.EinsumDense(shape, (None, 10), bias_axes="e"), rng.normal(size=(2, 3, 4, 3))
    start = base(x)
    layer = CASES[case](base)
    np.testing.assert_array_equal(layer(x), start)
    assert [v.name for v in layer.trainable_variables] == NAMES[case]
    randomize(layer)
    kernel, adapted = np.asarray(base.kernel), np.asarray(layer(x))
    flat = x.reshape(*x.shape[: 1 if shape == "dense" else 2], -1) @ whole_kernel(layer)
    expected = flat.reshape(adapted.shape) + np.asarray(base.bias, "float64")
    expected = np.tanh(expected) if shape == "dense" else expected
    np.testing.assert_allclose(adapted, expected, rtol=2e-5, atol=5e-5)
    layer.merge()
    np.testing.assert_allclose(layer(x), expected, rtol=2e-5, atol=5e-5)
    layer.unmerge()
    np.testing.assert_array_equal(base.kernel, kernel)
    layer.disable()
    np.testing.assert_allclose(layer(x), base(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_dense_forms(case: str) -> None:
    layer = CASES[case](keras.layers.Dense(10))
    x = jnp.asarray(rng.normal(size=(4, 12)), "float32")
    weights = jnp.asarray(rng.normal(size=(4, 10)), "float32")
    layer(x)
    randomize(layer)
    frozen = [v.value for v in layer.non_trainable_variables]
    trained = [v.value for v in layer.trainable_variables]
    names = [v.name for v in layer.trainable_variables]

    def dense(values: Any, x: Any) -> Any:
        own = dict(zip(names, values, strict=True))
        kind = names[0][:4]
        first, second = (
            own[f"lokr_w{i}"] if f"lokr_w{i}" in own else own[f"{kind}_a{i}"] @ own[f"{kind}_b{i}"] for i in (1, 2)
        )
        change = layer.scaling * (first * second if kind == "loha" else jnp.kron(first, second))
        return ((x @ (layer.base.kernel.value + change)) * weights).sum()

    def own(values: Any, x: Any) -> Any:
        return (layer.stateless_call(values, frozen, x)[0] * weights).sum()

    got, expected = (jax.grad(f, argnums=(0, 1))(trained, x) for f in (own, dense))
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["loha", "lokr", "lokr-both"])
def test_no_product_is_as_large_as_the_kernels(case: str) -> None:
    """No product forward or backward gives an array of the kernel's size."""
    layer = CASES[case](keras.layers.Dense(48, use_bias=False))
    x = jnp.ones((2, 60), "float32")
    layer(x)
    frozen = [v.value for v in layer.non_trainable_variables]
    trained = [v.value for v in layer.trainable_variables]
    gradient = jax.grad(lambda values, x: layer.stateless_call(values, frozen, x)[0].sum(), argnums=(0, 1))
    products = [line for line in jax.jit(gradient).lower(trained, x).as_text().splitlines() if "dot_general" in line]
    assert len(products) > 4
    assert not [line for line in products if re.search(r"-> tensor<(60x48|48x60)x", line)]


@pytest.mark.parametrize("case", ["loha", "lokr-both"])
def test_keras_file(case: str, tmp_path: Any) -> None:
    inputs = keras.Input((12,))
    model = keras.Model(inputs, CASES[case](keras.layers.Dense(10), name="adapted")(inputs))
    randomize(model.get_layer("adapted"))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(4, 12)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("case", ["loha", "lokr-both"])
def test_bfloat16_sums_in_float32(case: str) -> None:
    layer = CASES[case](keras.layers.Dense(12, dtype="mixed_bfloat16"))
    x = rng.normal(size=(2, 256)).astype("float32")
    assert layer(x).dtype == "bfloat16"
    randomize(layer)
    assert layer.trainable_variables[0].dtype == "float32"
    expected = x @ whole_kernel(layer) + np.asarray(layer.base.bias, "float64")
    np.testing.assert_allclose(np.asarray(layer(x), "float32"), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_starts_as_in_peft() -> None:
    """kaiming_uniform_(a=sqrt(5)) of PEFT's matrices (out, in): uniform in ±1/sqrt of the columns."""
    x = np.ones((1, 768), "float32")
    bounds = {
        "loha_a1": 768**-0.5,
        "loha_b1": 8**-0.5,
        "loha_a2": 0,
        "loha_b2": 8**-0.5,
        "lokr_a1": 24**-0.5,
        "lokr_b1": 0,
        "lokr_a2": 32**-0.5,
        "lokr_b2": 8**-0.5,
    }
    starts: dict[str, Any] = {}
    for layer in (
        LoHaLinear(keras.layers.Dense(768), seed=0),
        LoKrLinear(keras.layers.Dense(768), seed=0, decompose_both=True),
    ):
        layer(x)
        starts |= {v.name: np.asarray(v) for v in layer.trainable_variables}
    assert starts.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert np.abs(starts[name]).max() == pytest.approx(bound, rel=0.05)
        assert np.std(starts[name]) == pytest.approx(bound / 3**0.5, rel=0.15)
    assert not np.array_equal(starts["loha_b1"], starts["loha_b2"])


@pytest.mark.parametrize(
    ("number", "factor", "expected"),
    [
        (256, -1, (16, 16)),
        (128, -1, (8, 16)),
        (127, -1, (1, 127)),
        (128, 4, (4, 32)),
        (768, 64, (64, 12)),
        (768, 5, (4, 192)),
        (3072, -1, (48, 64)),
        (1, -1, (1, 1)),
    ],
)
def test_two_factors_are_pefts(number: int, factor: int, expected: Any) -> None:
    assert two_factors(number, factor) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoHaLinear(keras.layers.Dense(3), rank=0), "rank=0"),
        (lambda: LoKrLinear(keras.layers.Dense(3), rank=0), "rank=0"),
        (lambda: LoKrLinear(keras.layers.Dense(3), decompose_factor=0), "Received: 0"),
        (lambda: LoHaLinear(keras.layers.Dropout(0.1)), "Received: <Dropout"),
        (lambda: LoKrLinear(keras.layers.EinsumDense("ab,bcd->adc", (4, 3))), "ab,bcd->adc"),
    ],
)
def test_errors_say_what_was_received(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

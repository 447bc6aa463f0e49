"""Gates against the formula in float64, alone and in each kind of layer that has one, with padding and without."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers import GatedLoRA, InputGate, MaskedBlock, ParallelDown, ParallelUp, PrefixAttention
from kpeft.layers import SequentialBottleneck as Sequential
from kpeft.sites import variable_paths
from tests.layers.test_prefix import HEADS, LENGTH, MASK, ROWS, WIDTH, X, array, attention, expected
from tests.test_contract import disturb, values
from tests.tiny import tiny_batch, tiny_classifier

RNG = np.random.default_rng(0)
REAL = MASK[:, 0]


class Block(keras.layers.Layer):
    """Calls one layer, as a transformer block does: the mask is the block's."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)

    def call(self, inputs: Any, padding_mask: Any = None) -> Any:
        return self.layer(inputs)


def masked(layer: Any, x: Any, mask: Any = REAL) -> Any:
    block = Block(layer)
    block.build(np.shape(x))
    wrapped = MaskedBlock(block)
    wrapped.build(np.shape(x))
    return array(wrapped(x.astype("float32"), padding_mask=mask))


def randomize(layer: Any, width: float = 1.0) -> None:
    for variable in layer.weights:
        if not variable.path.endswith("/gate"):
            variable.assign(RNG.normal(0, width, variable.shape))


def share(gate: Any, x: Any, mask: Any = None) -> Any:
    """G(x), (rows,)."""
    axes = gate.kernel.ndim - 1
    each = 1 / (1 + np.exp(-(np.tensordot(x, array(gate.kernel)[..., 0], axes) + array(gate.bias))))
    return each.mean(1) if mask is None else (each * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("mask", [None, REAL])
def test_gate_is_the_formula(mask: Any) -> None:
    gate = InputGate(seed=1)
    gate.build((None, WIDTH))
    assert 0.002 < np.abs(array(gate.kernel)).max() < 0.1
    np.testing.assert_allclose(gate(X), np.full((ROWS, 1, 1), 0.5), atol=0.05)
    randomize(gate)
    found = masked(gate, X, mask)
    np.testing.assert_allclose(found[:, 0, 0], share(gate, X, mask), rtol=1e-5)
    assert np.abs(share(gate, X, REAL) - share(gate, X)).max() > 0.01
    assert gate(X[:, 0], ndim=2).shape == (ROWS, 1)


def test_a_row_that_is_all_padding_is_finite() -> None:
    gate = InputGate()
    gate(X)
    assert np.isfinite(masked(gate, X, np.zeros((ROWS, LENGTH)))).all()


@pytest.mark.parametrize("mask", [None, REAL])
@pytest.mark.parametrize("equation", [None, "abc,cde->abde", "abcd,cde->abe"])
def test_lora(mask: Any, equation: Any) -> None:
    base: Any = keras.layers.Dense(5, activation="tanh")
    x = RNG.normal(size=(ROWS, LENGTH, 2, 4)) if equation == "abcd,cde->abe" else X
    if equation is not None:
        shape, bias = ((None, 2, 4), "de") if equation == "abc,cde->abde" else ((None, 5), "e")
        base = keras.layers.EinsumDense(equation, shape, bias_axes=bias, activation="tanh")
    layer = GatedLoRA(base, rank=2, alpha=3, lora_bias=True, seed=2)
    plain = base(x)
    np.testing.assert_array_equal(layer(x), plain)
    randomize(layer)
    axes = x.ndim - 2
    change = 1.5 * (np.tensordot(np.tensordot(x, array(layer.lora_a), axes), array(layer.lora_b), 1))
    change = change + 1.5 * array(layer.lora_c)
    gate = share(layer.input_gate, x, mask).reshape(-1, *[1] * (change.ndim - 1))
    inner = np.tensordot(x, array(base.kernel), axes) + gate * change + array(base.bias)
    np.testing.assert_allclose(masked(layer, x, mask), np.tanh(inner), rtol=2e-5, atol=2e-5)
    layer.disable()
    np.testing.assert_array_equal(layer(x), base(x))


@pytest.mark.parametrize("mask", [None, REAL])
def test_bottlenecks(mask: Any) -> None:
    layer = Sequential(keras.layers.Dense(5), size=3, activation="tanh", scale=2.0, gated=True)
    layer(X)
    randomize(layer)
    h = X @ array(layer.base.kernel) + array(layer.base.bias)
    change = np.tanh(h @ array(layer.down_kernel) + array(layer.down_bias)) @ array(layer.up_kernel)
    wanted = h + share(layer.input_gate, h, mask)[:, None, None] * 2 * (change + array(layer.up_bias))
    np.testing.assert_allclose(masked(layer, X, mask), wanted, rtol=5e-5, atol=5e-5)

    down = ParallelDown(keras.layers.Dense(7), size=3, activation="tanh", gated=True)
    up = ParallelUp(keras.layers.Dense(WIDTH), size=3, scale=4.0, gated=True)
    assert down.compute_output_shape(X.shape) == (ROWS, LENGTH, 11)
    assert up(down(X)).shape == up.compute_output_shape((ROWS, LENGTH, 11)) == X.shape
    randomize(down)
    randomize(up)
    change = np.tanh(X @ array(down.down_kernel) + array(down.down_bias)) @ array(up.up_kernel) + array(up.up_bias)
    hidden = X @ array(down.base.kernel) + array(down.base.bias)
    wanted = hidden @ array(up.base.kernel) + array(up.base.bias)
    wanted = wanted + share(down.input_gate, X, mask)[:, None, None] * 4 * change
    np.testing.assert_allclose(masked(keras.Sequential([down, up]), X, mask), wanted, rtol=5e-5, atol=5e-5)


def test_prefix() -> None:
    layer = PrefixAttention(attention(), tokens=3, gated=True, seed=0)
    layer(X, X, attention_mask=MASK)
    randomize(layer.input_gate)
    found = array(layer(X, X, attention_mask=MASK))
    prefix = array(layer.own_prefix)
    assert prefix.shape == (3, 2, HEADS, 4)
    for row, gate in enumerate(share(layer.input_gate, X)):
        wanted = expected(layer.base, gate * prefix)[row]
        np.testing.assert_allclose(found[row], wanted, rtol=1e-4, atol=1e-5)


UNIPELT = (
    kpeft.LoRA(rank=2, gated=True)
    + kpeft.Prefix(tokens=2, gated=True)
    + kpeft.Bottleneck(size=3, style="pfeiffer", gated=True)
)
BESIDE = kpeft.LoRA(rank=2, gated=True, targets="value") + kpeft.Bottleneck(size=3, style="parallel", gated=True)


@pytest.mark.parametrize(("family", "method"), [("bert", UNIPELT), ("deberta_v3", BESIDE)])
def test_a_rows_logits_do_not_depend_on_its_padding(family: str, method: Any) -> None:
    model = tiny_classifier(family)
    disturb(kpeft.adapt(model, method, seed=3))
    batch = tiny_batch(model, length=10)
    wider = {name: np.pad(array_, ((0, 0), (0, 9))) for name, array_ in batch.items()}
    logits = np.asarray(model(batch))
    np.testing.assert_allclose(model(wider), logits, rtol=1e-5, atol=1e-5)
    biases = [v for path, v in variable_paths(model).items() if path.endswith("input_gate/bias")]
    for bias in biases:
        bias.assign(bias - 3.0)
    assert np.abs(np.asarray(model(batch)) - logits).max() > 1e-2


def test_keras_file_keeps_everything_and_trains_on(tmp_path: Any) -> None:
    inputs = keras.Input((LENGTH, WIDTH))
    hidden = GatedLoRA(keras.layers.Dense(4), rank=2, name="lora")(inputs)
    hidden = ParallelUp(keras.layers.Dense(3), size=2, gated=True, name="up")(
        ParallelDown(keras.layers.Dense(5), size=2, gated=True, name="down")(hidden)
    )
    model = keras.Model(inputs, PrefixAttention(attention_of(3), tokens=2, gated=True, name="prefix")(hidden, hidden))
    for layer in model.layers[1:]:
        randomize(layer, 0.3)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = X.astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    again.compile("sgd", "mse")
    again.fit(x, np.ones((ROWS, LENGTH, 3)), verbose=0)
    for name in ("lora", "down", "prefix"):
        loaded, layer = again.get_layer(name), model.get_layer(name)
        assert np.abs(array(loaded.input_gate.kernel) - array(layer.input_gate.kernel)).max() > 0


def attention_of(width: int) -> Any:
    layer = keras.layers.MultiHeadAttention(2, 2)
    layer.build((ROWS, LENGTH, width), (ROWS, LENGTH, width))
    return layer


def test_in_bfloat16_the_mean_is_float32() -> None:
    gate = InputGate(dtype="mixed_bfloat16")
    x = keras.ops.cast(RNG.normal(size=(2, 5000, 4)), "bfloat16")
    gate(x)
    assert (gate.kernel.dtype, gate(x).dtype) == ("float32", "float32")
    gate.kernel.assign(keras.ops.cast(keras.ops.cast(RNG.normal(size=(4, 1)), "bfloat16"), "float32"))
    np.testing.assert_allclose(array(gate(x))[:, 0, 0], share(gate, array(x)), rtol=1e-5)
    base = keras.layers.Dense(4, dtype="mixed_bfloat16")
    assert GatedLoRA(base, rank=2)(x).dtype == Sequential(base, size=2, gated=True)(x).dtype == "bfloat16"


def test_a_gated_lora_is_not_merged() -> None:
    layer = GatedLoRA(keras.layers.Dense(4), rank=2)
    layer(X)
    randomize(layer)
    kernel, outputs = array(layer.base.kernel), array(layer(X))
    with pytest.raises(ValueError, match=r"is gated: its change depends on each row's input.*save_adapter, or train"):
        layer.merge()
    np.testing.assert_array_equal(array(layer.base.kernel), kernel)
    np.testing.assert_array_equal(array(layer(X)), outputs)
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.LoRA(rank=2, gated=True))
    disturb(adaptation)
    before = values(model)
    with pytest.raises(ValueError, match="is gated: its change depends on each row's input"):
        adaptation.merge()
    assert not adaptation.merged
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())


@pytest.mark.parametrize("method", [kpeft.LoRA(rank=2, gated=True), kpeft.Prefix(tokens=2, gated=True)])
def test_peft_has_no_place_for_gates(method: Any, tmp_path: Any) -> None:
    kpeft.save_adapter(kpeft.adapt(tiny_classifier("bert"), method), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == f"KPEFT_{method.name.upper()}"
    assert config["method"]["gated"] is True


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kpeft.LoRA(gated=True, init="pissa"), "init='pissa' needs the whole change"),
        (lambda: GatedLoRA(keras.layers.Dense(3), init="olora"), "not out of it. Received: init='olora'"),
        (
            lambda: kpeft.adapt(tiny_classifier("deberta_v3"), kpeft.LoRA(gated=True)),
            "/query cannot be gated: DeBERTa's.*other targets, such as value,attention_output",
        ),
        (lambda: GatedLoRA(keras.layers.EinsumDense("ab,bc->cab", (None, 3))), "'ab,bc->cab'"),
    ],
)
def test_bad_options(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

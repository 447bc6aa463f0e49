"""Compacter's layers against Kronecker products in float64, and the matrices that they share."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers import CompacterBottleneck, HypercomplexRule
from tests.layers.test_bottleneck import float64, gelu, randomize, rng
from tests.test_contract import values
from tests.tiny import tiny_batch, tiny_classifier


def kronecker(xp: Any, rule: Any, left: Any, right: Any) -> Any:
    """The dense map, as the paper writes it."""
    return sum(xp.kron(a, s @ t) for a, s, t in zip(rule, left, right, strict=True))


def dense(layer: Any, which: str) -> Any:
    factors = (layer.rule.phm_rule, getattr(layer, f"{which}_left"), getattr(layer, f"{which}_right"))
    return kronecker(np, *map(float64, factors))


def compacter(features: int = 8, n: int = 4, *, randomized: bool = True, **options: Any) -> Any:
    """Returns a built layer of 5 inputs."""
    dtype = options.pop("dtype", None)
    base = keras.layers.Dense(features, dtype=dtype)
    layer = CompacterBottleneck(base, rule=HypercomplexRule(n, seed=0), seed=0, **options)
    layer.build((None, 5))
    if randomized:
        randomize(layer)
    return layer


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize(("n", "rank", "size"), [(4, 1, 4), (2, 3, 6), (4, 2, 16), (1, 1, 3)])
def test_it_is_the_formula(n: int, rank: int, size: int, heads: bool) -> None:
    base: Any = keras.layers.EinsumDense("abcd,cde->abe", (None, 8), bias_axes="e") if heads else keras.layers.Dense(8)
    layer = CompacterBottleneck(base, rule=HypercomplexRule(n), rank=rank, size=size, scale=2.0)
    x = rng.normal(size=(2, 3, 2, 4) if heads else (2, 3, 7))
    layer(x)
    randomize(layer)
    hidden = np.tensordot(x, float64(base.kernel), x.ndim - 2) + float64(base.bias)
    inner = gelu(hidden @ dense(layer, "down") + float64(layer.down_bias))
    expected = hidden + 2 * (inner @ dense(layer, "up") + float64(layer.up_bias))
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    layer.disable()
    np.testing.assert_array_equal(layer(x), base(x))


def test_no_map_is_formed() -> None:
    layer = compacter(32, size=16)
    for product, width in ((layer.map_down, 32), (layer.map_up, 16)):
        traced = str(jax.make_jaxpr(product)(np.ones((1, width), "float32")))
        sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in re.findall(r"f32\[([\d,]+)\]", traced)]
        assert 0 < max(sizes) < 32 * 16


def test_starts_equal_to_the_base_and_trains_from_there() -> None:
    layer = compacter(768, randomized=False, size=24)
    x = rng.normal(size=(4, 5)).astype("float32")
    np.testing.assert_array_equal(layer(x), layer.base(x))
    assert np.std(dense(layer, "down")) == pytest.approx(np.sqrt(2 / (768 + 24)), rel=0.5)
    starts = [float64(v).ravel()[:4] for v in layer.own_trainable_variables if np.any(float64(v))]
    assert len(starts) == len({tuple(start) for start in starts}) == 4
    model = keras.Sequential([keras.Input((5,)), layer])
    before = values(model)
    model.compile("adam", "mse")
    model.fit(x, np.ones((4, 768)), epochs=3, verbose=0)
    still = {path for path, value in values(model).items() if np.array_equal(value, before[path])}
    assert {path.rpartition("/")[2] for path in still} == {"kernel", "bias"}


def test_the_gradient_of_what_two_layers_share() -> None:
    rule = HypercomplexRule(2)
    first = CompacterBottleneck(keras.layers.Dense(6), rule=rule, size=4, activation="tanh")
    second = CompacterBottleneck(keras.layers.Dense(4), rule=rule, size=8, activation="tanh")
    model = keras.Sequential([keras.Input((3,)), first, second])
    for layer in (first, second):
        randomize(layer)
    x = rng.normal(size=(5, 3)).astype("float32")
    place = next(i for i, variable in enumerate(model.trainable_variables) if variable is rule.phm_rule)

    def ours(matrices: Any) -> Any:
        trained = [variable.value for variable in model.trainable_variables]
        trained[place] = matrices
        y, _ = model.stateless_call(trained, [variable.value for variable in model.non_trainable_variables], x)
        return jnp.sum(y**2)

    def plain(matrices: Any) -> Any:
        y: Any = x
        for layer in (first, second):
            maps = [
                kronecker(jnp, matrices, left.value, right.value)
                for left, right in ((layer.down_left, layer.down_right), (layer.up_left, layer.up_right))
            ]
            y = layer.base(y)
            y = y + jnp.tanh(y @ maps[0] + layer.down_bias.value) @ maps[1] + layer.up_bias.value
        return jnp.sum(y**2)

    value, gradient = jax.value_and_grad(ours)(rule.phm_rule.value)
    expected_value, expected = jax.value_and_grad(plain)(rule.phm_rule.value)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_two_layers_that_share_a_rule_are_saved(tmp_path: Any) -> None:
    rule = HypercomplexRule(2, seed=1)
    layers = [
        CompacterBottleneck(keras.layers.Dense(6), rule=rule, size=4, rank=2, activation="relu", scale=0.5),
        CompacterBottleneck(keras.layers.Dense(6), rule=rule, size=2, gated=True),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers])
    for layer in layers:
        randomize(layer)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(5, 3)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    first, second = again.layers
    assert first.rule is second.rule
    np.testing.assert_array_equal(float64(first.rule.phm_rule), float64(rule.phm_rule))
    assert len(again.trainable_variables) == len(model.trainable_variables)


def test_in_bfloat16() -> None:
    x = rng.normal(size=(3, 5)).astype("float32")
    layer = compacter(size=4, dtype="mixed_bfloat16")
    assert {variable.dtype for variable in layer.own_trainable_variables} == {"float32"}
    y = layer(x)
    assert y.dtype == "bfloat16"
    hidden = np.asarray(layer.base(x)).astype("float64")
    inner = gelu(hidden @ dense(layer, "down") + float64(layer.down_bias))
    expected = hidden + inner @ dense(layer, "up") + float64(layer.up_bias)
    np.testing.assert_allclose(np.asarray(y).astype("float64"), expected, atol=0.02 * np.abs(expected).max())


def test_one_rule_serves_all_adapters() -> None:
    own, layernorms, head = 16 + 4 + 4 + 4 + 16 + 16, 5 * 2 * 16, 16 * 2 + 2
    for style, places in (("houlsby", 4), ("pfeiffer", 2)):
        adaptation = kpeft.adapt(tiny_classifier("bert"), kpeft.Compacter(size=4, style=style))
        assert sum(path.endswith("/phm_rule") for path in adaptation.trained_variables()) == 1
        assert len({id(adapter.rule) for adapter in adaptation.adapters.values()}) == 1
        assert adaptation.parameter_counts().trainable == 4**3 + places * own + layernorms + head


def test_what_does_not_divide_the_width_leaves_the_model_as_it_was() -> None:
    model = tiny_classifier("bert")
    before, flags = values(model), [variable.trainable for variable in model.weights]
    y = np.asarray(model(tiny_batch(model)))
    with pytest.raises(ValueError, match=r"phm_dim=3, size=6, and 16 features of layer .*attention_output") as error:
        kpeft.adapt(model, kpeft.Compacter(size=6, phm_dim=3))
    assert str(error.value).isprintable()
    assert values(model).keys() == before.keys()
    assert [variable.trainable for variable in model.weights] == flags
    np.testing.assert_array_equal(model(tiny_batch(model)), y)
    with pytest.raises(ValueError, match="phm_dim=4, size=6, and 8 features"):
        compacter(size=6)
    with pytest.raises(ValueError, match="compacter needs a KerasHub encoder"):
        kpeft.adapt(keras.Sequential([keras.Input((3,)), keras.layers.LayerNormalization()]), kpeft.Compacter())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"phm_dim": 0}, "phm_dim must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"size": 6}, "phm_dim must divide size. Received: phm_dim=4 and size=6"),
        ({"style": "parallel"}, "style must be one of houlsby, pfeiffer. Received: style='parallel'"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kpeft.Compacter(**options)


def test_bad_options_of_layers() -> None:
    with pytest.raises(ValueError, match="phm_dim must be at least 1"):
        HypercomplexRule(0)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        compacter(size=4, rank=0)

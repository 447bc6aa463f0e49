"""Attention with a learned prefix, against plain numpy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers.fast import FastMultiHeadAttention
from kpeft.layers.prefix import PrefixAttention, PrefixProjection
from tests.test_contract import values
from tests.tiny import tiny_batch, tiny_classifier

RNG = np.random.default_rng(0)
ROWS, LENGTH, WIDTH, HEADS, DIM = 2, 5, 6, 3, 4
X = RNG.normal(size=(ROWS, LENGTH, WIDTH))
MASK = (np.arange(LENGTH) < np.array([[LENGTH], [2]])).astype("int32")[:, None]


def attention(kind: Any = FastMultiHeadAttention, dtype: str = "float32") -> Any:
    layer = kind(HEADS, DIM, dropout=0.0, dtype=dtype)
    layer.build((ROWS, LENGTH, WIDTH), (ROWS, LENGTH, WIDTH))
    for variable in layer.trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))
    return layer


def array(tensor: Any) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32")).astype("float64")


def expected(base: Any, prefix: Any) -> Any:
    """Softmax attention in float64, the prefix' keys and values first."""
    q, k, v = (
        np.einsum("btd,dhk->bthk", X, array(dense.kernel)) + array(dense.bias)
        for dense in (base.query_dense, base.key_dense, base.value_dense)
    )
    first = np.broadcast_to(prefix, (ROWS, *prefix.shape))
    k, v = np.concatenate([first[:, :, 0], k], 1), np.concatenate([first[:, :, 1], v], 1)
    scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(DIM)
    seen = np.concatenate([np.ones((ROWS, 1, prefix.shape[0])), MASK], -1)[:, None]
    p = np.where(seen == 1, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    out = np.einsum("bhts,bshk->bthk", p / p.sum(-1, keepdims=True), v)
    return np.einsum("bthk,hkd->btd", out, array(base.output_dense.kernel)) + array(base.output_dense.bias)


@pytest.mark.parametrize("kind", [FastMultiHeadAttention, keras.layers.MultiHeadAttention])
def test_prefix(kind: Any) -> None:
    base = attention(kind)
    layer = PrefixAttention(base, tokens=3, seed=0)
    y = layer(X, X, attention_mask=MASK)
    np.testing.assert_allclose(array(y), expected(base, array(layer.own_prefix)), rtol=1e-4, atol=1e-5)
    layer.disable()
    np.testing.assert_allclose(
        array(layer(X, X, attention_mask=MASK)), array(base(X, X, attention_mask=MASK)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(array(layer(X, X)), array(base(X, X)), rtol=1e-5, atol=1e-5)


def test_projection() -> None:
    base, projection = attention(), PrefixProjection(3, width=5, hidden=7, seed=1)
    layer = PrefixAttention(base, tokens=3, projection=projection, seed=2)
    y = layer(X, X, attention_mask=MASK)
    e, w, b, w2, b2 = (array(v) for v in layer.own_trainable_variables)
    prefix = (np.tanh(e @ w + b) @ w2 + b2).reshape(3, 2, HEADS, DIM)
    np.testing.assert_allclose(array(y), expected(base, prefix), rtol=1e-4, atol=1e-5)


def test_dropout_is_of_the_prefix_and_only_in_training() -> None:
    layer = PrefixAttention(attention(), tokens=3, dropout=0.5, seed=0)
    without = PrefixAttention(layer.base, tokens=3, seed=0)
    np.testing.assert_array_equal(layer(X, X), without(X, X))
    assert np.abs(array(layer(X, X, training=True)) - array(without(X, X, training=True))).max() > 0.01
    first, second = array(layer(*[np.repeat(X[:1], 2, axis=0)] * 2, training=True))
    assert np.abs(first - second).max() > 0.01  # each row has a mask of its own


@pytest.mark.parametrize("projected", [False, True])
def test_saved_and_in_bfloat16(projected: bool, tmp_path: Any) -> None:
    projection = PrefixProjection(2, 4, 3, seed=1) if projected else None
    layer = PrefixAttention(attention(dtype="mixed_bfloat16"), tokens=2, projection=projection, dropout=0.1)
    x = keras.Input((None, WIDTH))
    model = keras.Model(x, layer(x, x))
    assert model(X).dtype == "bfloat16"
    assert all(variable.dtype == "float32" for variable in layer.own_trainable_variables)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(X)), array(model(X)))


def test_one_projection_serves_all_layers() -> None:
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.Prefix(tokens=2, projection=True, hidden=5))
    names = [path.rpartition("layer_0/")[2] for path in adaptation.trained_variables()]
    assert sum(name.endswith("projection/embedding") for name in names) == 1
    own = 2 * 16 + (16 + 1) * 5 + 2 * (5 + 1) * 32
    assert adaptation.parameter_counts().trainable == own + 16 * 2 + 2


def test_deberta_is_refused() -> None:
    model = tiny_classifier("deberta_v3")
    before, batch = values(model), tiny_batch(model)
    y = np.asarray(model(batch))
    with pytest.raises(ValueError, match=r"prefix tuning needs Keras's MultiHeadAttention.*--method prompt"):
        kpeft.adapt(model, kpeft.Prefix())
    assert values(model).keys() == before.keys()
    np.testing.assert_array_equal(model(batch), y)


def plain_attention(**options: Any) -> Any:
    return keras.layers.MultiHeadAttention(HEADS, DIM, **options)


@pytest.mark.parametrize("options", [{"use_gate": True}, {"sliding_window": 2}])
def test_attention_that_does_more_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="needs attention without use_gate and sliding_window"):
        PrefixAttention(plain_attention(**options), tokens=2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("explicit", [False, True])
def test_masks_that_inputs_carry_and_causal_ones(causal: bool, explicit: bool) -> None:
    ids = np.array([[1, 2, 3, 4], [3, 1, 0, 0]])
    embedding = keras.layers.Embedding(5, WIDTH, mask_zero=True, embeddings_initializer="normal")
    base = plain_attention()
    layer = PrefixAttention(base, tokens=2, seed=0)
    options = {"use_causal_mask": causal, "attention_mask": np.tri(4, dtype=bool)[None] if explicit else None}
    real = ids != 0
    y = array(layer(embedding(ids), embedding(ids), **options))
    layer.disable()
    off, plain = (array(each(embedding(ids), embedding(ids), **options)) for each in (layer, base))
    np.testing.assert_allclose(off[real], plain[real], rtol=1e-4, atol=1e-6)
    x = array(embedding(ids))
    seen = np.broadcast_to(real[:, None] & (np.tri(4, dtype=bool) if causal or explicit else True), (2, 4, 4))
    layer.enable()
    np.testing.assert_allclose(y[real], array(layer(x, x, attention_mask=seen))[real], rtol=1e-4, atol=1e-6)
    assert np.abs(y - array(layer(x, x)))[real].max() > 1e-5


def test_an_unbuilt_base_with_a_key_of_its_own() -> None:
    base = plain_attention()
    layer = PrefixAttention(base, tokens=2, seed=0)
    key = RNG.normal(size=(ROWS, LENGTH, WIDTH + 1))
    y = layer(X, X, key)
    assert base.built
    assert not any(variable.trainable for variable in base.variables)
    assert [variable.name for variable in layer.trainable_variables] == ["prefix"]
    layer.disable()
    assert y.shape == layer(X, X, key).shape
    np.testing.assert_allclose(array(layer(X, X, key)), array(base(X, X, key)), rtol=1e-4, atol=1e-6)


def test_two_layers_that_share_a_projection_are_saved(tmp_path: Any) -> None:
    projection = PrefixProjection(2, 4, 3, seed=1)
    x = keras.Input((None, WIDTH))
    layers = [PrefixAttention(plain_attention(), tokens=2, projection=projection, seed=n) for n in range(2)]
    y = layers[0](x, x)
    model = keras.Model(x, layers[1](y, y))
    projection.embedding.assign(RNG.normal(size=projection.embedding.shape))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(X)), array(model(X)))
    first, second = (layer.projection for layer in again.layers if isinstance(layer, PrefixAttention))
    assert first is second


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kpeft.Prefix(**options)

"""Layers that put virtual tokens into a sequence, against plain numpy."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

from kpeft.layers.p_tuning import EncodedPrompt
from kpeft.layers.prompt import PromptEmbedding, ShiftedPositions

RNG = np.random.default_rng(0)
IDS = np.array([[3, 1, 4, 1], [5, 9, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])


def embedding(dtype: str = "float32") -> Any:
    layer = keras.layers.Embedding(10, 6, dtype=dtype)
    layer.build((None, None))
    layer.embeddings.assign(RNG.normal(size=(10, 6)))
    return layer


def array(tensor: Any) -> Any:
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


@pytest.mark.parametrize("index", [0, 1])
def test_prompt(index: int) -> None:
    base = embedding()
    layer = PromptEmbedding(base, tokens=3, index=index, seed=0)
    x, mask = layer(IDS, MASK)
    words, prompt = array(base.embeddings)[IDS], np.broadcast_to(array(layer.embedding), (2, 3, 6))
    np.testing.assert_array_equal(array(x), np.concatenate([words[:, :index], prompt, words[:, index:]], 1))
    ones = np.ones((2, 3))
    np.testing.assert_array_equal(array(mask), np.concatenate([MASK[:, :index], ones, MASK[:, index:]], 1))
    layer.disable()
    np.testing.assert_array_equal(
        array(layer(IDS, MASK)[1]), np.concatenate([MASK[:, :index], 0 * ones, MASK[:, index:]], 1)
    )
    assert layer.own_trainable_variables == [layer.embedding]
    assert not base.embeddings.trainable


def test_starts() -> None:
    base = embedding()
    table = array(base.embeddings)
    layer = PromptEmbedding(base, tokens=50, init="vocabulary", seed=1)
    layer.build((None, None))
    rows = array(layer.embedding)
    assert all((table == row).all(axis=1).any() for row in rows)
    assert len(np.unique(rows, axis=0)) > 5
    drawn = [PromptEmbedding(base, tokens=500, seed=seed) for seed in (1, 1, 2)]
    for each in drawn:
        each.build((None, None))
    first, same, other = (array(each.embedding) for each in drawn)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1
    assert abs(first.std() - 1) < 0.05


@pytest.mark.parametrize("length", [4, 5])
def test_positions(length: int) -> None:
    base = keras_hub.layers.PositionEmbedding(8)
    base.build((None, None, 6))
    table = array(base.position_embeddings)
    x = np.zeros((2, length, 6))
    prefix = ShiftedPositions(base, tokens=3)
    inside = ShiftedPositions(base, tokens=2, leading=3)
    expected: dict[Any, Any] = {(True, True): range(3, 3 + length), (True, False): range(length)}
    expected |= {(False, True): range(length), (False, False): [0, 1, 2, *range(1, length - 2)]}
    for layer in (prefix, inside):
        for on in (True, False):
            layer(x)
            (layer.enable if on else layer.disable)()
            rows = table[list(expected[layer is prefix, on])]
            np.testing.assert_array_equal(array(layer(x)), np.broadcast_to(rows, (2, length, 6)))
    with pytest.raises(ValueError, match=r"rows of at most 5 tokens; the model has 8 positions. Received: rows of 6"):
        prefix(np.zeros((1, 6, 6)))
    with pytest.raises(ValueError, match=r"rows of at most 6 tokens.* Received: rows of 7"):
        inside(np.zeros((1, 9, 6)))


def test_mlp() -> None:
    layer = EncodedPrompt(embedding(), tokens=4, hidden=5, seed=0)
    layer.build((None, None))
    x = array(layer.embedding).astype("float64")
    weights = [array(v).astype("float64") for v in layer.encoder.trainable_variables]
    for number, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        assert np.abs(kernel).max() <= 1 / np.sqrt(len(kernel))
        assert np.abs(bias).max() > 0.01
        x = x @ kernel + bias
        x = np.maximum(x, 0) if number < 2 else x
    np.testing.assert_allclose(array(layer.prompt()), x, rtol=1e-5, atol=1e-6)
    assert len(layer.own_trainable_variables) == 7


@pytest.mark.parametrize(
    "layer",
    [
        PromptEmbedding(embedding("mixed_bfloat16"), tokens=2, index=1, init="vocabulary", seed=3),
        EncodedPrompt(embedding("mixed_bfloat16"), tokens=2, hidden=3, seed=3),
        EncodedPrompt(embedding("mixed_bfloat16"), tokens=2, encoder="lstm", layers=2, dropout=0.5, seed=3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_saved_and_in_bfloat16(layer: Any, tmp_path: Any) -> None:
    tokens, mask = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    model = keras.Model([tokens, mask], layer(tokens, mask))
    x, longer = model([IDS, MASK])
    assert x.dtype == "bfloat16"
    assert longer.dtype == "int32"
    assert all(variable.dtype == "float32" for variable in layer.own_trainable_variables)
    for variable in layer.own_trainable_variables:
        variable.assign(RNG.normal(size=variable.shape))
    x, _ = model([IDS, MASK])
    model.save(tmp_path / "model.keras")
    again, _ = keras.models.load_model(tmp_path / "model.keras")([IDS, MASK])
    np.testing.assert_array_equal(array(again), array(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tokens": 0}, "tokens must be at least 1"), ({"init": "text"}, "init must be one of random, vocabulary")],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptEmbedding(embedding(), **options)
    with pytest.raises(ValueError, match="encoder must be one of mlp, lstm"):
        EncodedPrompt(embedding(), encoder="gru")

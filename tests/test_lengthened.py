"""Virtual tokens in the sequence: a prompt that spells words gives what the words themselves would."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers.prompt import PromptEmbedding
from tests.tiny import FAMILIES, POSITIONS, tiny_batch, tiny_classifier

SPELT = np.array([7, 30, 12])


def spell(adaptation: Any) -> None:
    """Lets the virtual tokens be the embeddings of three words."""
    layer = next(each for each in adaptation.adapters.values() if isinstance(each, PromptEmbedding))
    layer.embedding.assign(layer.base(SPELT))


def spelt_batch(batch: Any, index: int) -> Any:
    """The batch with the three words in it, of segment 0."""
    rows = len(batch["token_ids"])
    words = {"token_ids": SPELT, "padding_mask": np.ones(3), "segment_ids": np.zeros(3)}
    return {
        name: np.concatenate([value[:, :index], np.tile(words[name], (rows, 1)), value[:, index:]], 1).astype("int32")
        for name, value in batch.items()
    }


@pytest.mark.parametrize("place", ["front", "inside"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_spells_words(family: str, place: str) -> None:
    model = tiny_classifier(family)
    batch = tiny_batch(model)
    if (family, place) == ("deberta_v3", "inside"):
        with pytest.raises(ValueError, match="place them in front"):
            kpeft.adapt(model, kpeft.Prompt(tokens=3, place=place))
        assert all(variable.trainable for variable in model.trainable_variables)
        return
    expected = np.asarray(model(spelt_batch(batch, int(place == "inside"))))
    adaptation = kpeft.adapt(model, kpeft.Prompt(tokens=3, place=place))
    spell(adaptation)
    np.testing.assert_allclose(adaptation.model(batch), expected, rtol=1e-5, atol=3e-6)


def encoder(model: Any) -> Any:
    return next(layer for layer in model.layers if "backbone" in layer.name)


def test_the_head_can_read_cls() -> None:
    model = tiny_classifier("roberta")
    batch = tiny_batch(model)
    x = encoder(model)(spelt_batch(batch, 0))[:, 3]
    expected = np.asarray(model.get_layer("logits")(model.get_layer("pooled_dense")(x)))
    adaptation = kpeft.adapt(model, kpeft.Prompt(tokens=3, pool="cls"))
    spell(adaptation)
    np.testing.assert_allclose(adaptation.model(batch), expected, rtol=1e-5, atol=3e-6)


def test_two_prompts_on_one_encoder() -> None:
    model = tiny_classifier("bert")
    batch = tiny_batch(model)
    original = np.asarray(model(batch))
    first, second = (kpeft.adapt(model, kpeft.Prompt(tokens=n)) for n in (2, 3))
    y = np.asarray(first.model(batch))
    for variable in second.trained_variables().values():
        variable.assign_add(keras.ops.ones(variable.shape))
    np.testing.assert_array_equal(first.model(batch), y)
    np.testing.assert_array_equal(model(batch), original)
    assert first.model.get_layer("logits") is not model.get_layer("logits")
    encoders = [encoder(each).get_layer("transformer_layer_0") for each in (model, second.model)]
    assert encoders[0] is encoders[1]


def test_rows_too_long() -> None:
    model = tiny_classifier("bert")
    adapted = kpeft.adapt(model, kpeft.Prompt(tokens=3)).model
    adapted(tiny_batch(model, length=POSITIONS - 3))
    with pytest.raises(ValueError, match=f"at most {POSITIONS - 3} tokens"):
        adapted(tiny_batch(model, length=POSITIONS - 2))


def test_models_that_cannot_be_lengthened() -> None:
    for model in (keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), tiny_classifier("bert").layers[3]):
        with pytest.raises(ValueError, match="virtual tokens need a Functional classifier around a KerasHub encoder"):
            kpeft.adapt(model, kpeft.Prompt())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1"),
        ({"pool": "mean"}, "pool must be one of first, cls. Received: pool='mean'"),
        ({"place": "end"}, "place must be one of front, inside"),
        ({"init": "zeros"}, "init must be one of random, vocabulary"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kpeft.Prompt(**options)
    with pytest.raises(ValueError, match="encoder must be one of mlp, lstm"):
        kpeft.PTuning(encoder="gru")

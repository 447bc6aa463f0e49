"""The head on a backbone: structure, seeds, dtype."""

from __future__ import annotations

import random

import keras
import keras_hub
import numpy as np
import pytest

from kpeft.backbones.classifier import BACKBONES, classifier_from_backbone, family_of
from kpeft.families import FAMILIES
from tests.tiny import randomize, tiny_backbone, tiny_batch, tiny_classifier

CLASSIFIERS = {
    "bert": keras_hub.models.BertTextClassifier,
    "roberta": keras_hub.models.RobertaTextClassifier,
    "distilbert": keras_hub.models.DistilBertTextClassifier,
    "albert": keras_hub.models.AlbertTextClassifier,
    "deberta_v3": keras_hub.models.DebertaV3TextClassifier,
    "xlm_roberta": keras_hub.models.XLMRobertaTextClassifier,
}


def test_families_are_those_of_the_table() -> None:
    assert {name: cls.__name__ for name, cls in BACKBONES.items()} == {f.name: f.backbone for f in FAMILIES.values()}


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_equals_keras_hubs_classifier(family: str) -> None:
    backbone = tiny_backbone(family, dropout=0.1)
    task = CLASSIFIERS[family](backbone=backbone, num_classes=3, preprocessor=None)
    randomize(task, 1)
    model = classifier_from_backbone(backbone, 3)
    for name in ("pooled_dense", "logits"):
        if name in [layer.name for layer in model.layers]:
            model.get_layer(name).set_weights(task.get_layer(name).get_weights())
    batch = tiny_batch(model)
    np.testing.assert_array_equal(model.predict_on_batch(batch), task.predict_on_batch(batch))

    def rates(network: keras.Model) -> list[tuple[str, float]]:
        return sorted((layer.name, layer.rate) for layer in network.layers if isinstance(layer, keras.layers.Dropout))

    assert rates(model) == rates(task)
    assert model.count_params() == task.count_params()


def test_electra_is_hugging_faces_head_without_the_unused_pooler() -> None:
    backbone = tiny_backbone("electra", dropout=0.1)
    model = classifier_from_backbone(backbone, 2, dropout=0.25)
    assert [layer.name for layer in model.layers[-5:]] == [
        "electra_backbone",
        *("pooled_dropout", "pooled_dense", "output_dropout", "logits"),
    ]
    assert model.get_layer("pooled_dropout").rate == model.get_layer("output_dropout").rate == 0.25
    pooler = 16 * 16 + 16
    assert model.count_params() == backbone.count_params() - pooler + pooler + 16 * 2 + 2


def _states(model: keras.Model) -> list[list[int]]:
    seeds = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    return [keras.ops.convert_to_numpy(v).tolist() for v in seeds]


@pytest.mark.parametrize("family", BACKBONES)
def test_seed_decides_head_and_dropout(family: str) -> None:
    def build(seed: int) -> tuple[np.ndarray, list[list[int]]]:
        model = classifier_from_backbone(tiny_backbone(family, dropout=0.1), 2, seed=seed, dropout=0.1)
        return model.get_layer("logits").get_weights()[0], _states(model)

    random.seed(11)
    kernel, states = build(3)
    random.seed(12)
    again, states_again = build(3)
    other, other_states = build(4)
    np.testing.assert_array_equal(kernel, again)
    assert states == states_again
    assert len(set(map(tuple, states))) == len(states) > 2, "two dropouts share a stream"
    assert np.abs(kernel - other).min() > 0
    assert not set(map(tuple, states)) & set(map(tuple, other_states))


def test_global_generators_stay_put() -> None:
    random.seed(5)
    keras.utils.set_random_seed(5)
    python, numpy = random.getstate(), repr(np.random.get_state())
    tiny_classifier("bert", dropout=0.1)
    assert random.getstate() == python
    assert repr(np.random.get_state()) == numpy


def test_dropout_streams_differ_in_training() -> None:
    model = tiny_classifier("bert", dropout=0.5)
    twin = tiny_classifier("bert", dropout=0.5)
    batch = tiny_batch(model)
    first = keras.ops.convert_to_numpy(model(batch, training=True))
    np.testing.assert_array_equal(first, twin(batch, training=True))
    assert np.abs(first - model(batch, training=True)).max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_bfloat16_keeps_float32_variables_and_logits(family: str) -> None:
    model = tiny_classifier(family, dtype="mixed_bfloat16")
    full = tiny_classifier(family)
    logits = model.predict_on_batch(tiny_batch(model))
    expected = full.predict_on_batch(tiny_batch(full))
    assert logits.dtype == np.float32
    assert {v.dtype for v in model.weights} == {"float32"}
    assert 0 < np.abs(logits - expected).max() < 0.3


@pytest.mark.parametrize("family", BACKBONES)
def test_tiny_weights_are_not_trivial(family: str) -> None:
    for weight in tiny_classifier(family).weights:
        assert np.std(keras.ops.convert_to_numpy(weight)) > 0.1 or weight.shape == (2,), weight.path


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"unsupported backbone.*BertBackbone.*Received: Dense"):
        family_of(keras.layers.Dense(1))
    with pytest.raises(ValueError, match=r"num_classes must be at least 1. Received: num_classes=0"):
        classifier_from_backbone(tiny_backbone("bert"), 0)

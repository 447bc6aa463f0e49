"""Models in two at the frontier of what trains, for every family."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.frontier import Split, split
from kpeft.sites import variable_paths, walk
from tests.tiny import FAMILIES, slow_but, tiny_batch, tiny_classifier

TWO_LAYERS = tuple(family for family in FAMILIES if family != "albert")  # ALBERT's layers are one layer
UPPER = {"freeze": kpeft.Freeze(layers=1), "lora": kpeft.LoRA(rank=2, targets="all-linear", layers=(1,))}


def adapted(family: str, method: kpeft.Method, **options: Any) -> keras.Model:
    """A classifier with a method on it whose every trained variable is non-trivial."""
    model = tiny_classifier(family, **options)
    rng = np.random.default_rng(1)
    for variable in kpeft.adapt(model, method).trained_variables().values():
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    return model


def assert_same_function(model: keras.Model, parts: Split) -> dict[str, np.ndarray]:
    """Upper after lower, and both joined, are the model; returns the features."""
    batch = tiny_batch(model)
    features = {name: np.asarray(value) for name, value in parts.lower(batch).items()}
    above = features | {name: batch[name] for name in parts.upper.input if name in batch}
    expected = np.asarray(model(batch))
    np.testing.assert_allclose(parts.upper(above), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(parts.joined(batch), expected, rtol=1e-6, atol=1e-6)
    trained = {id(variable) for variable in model.trainable_variables}
    for part, its in ((parts.lower, set()), (parts.upper, trained), (parts.joined, trained)):
        assert {id(variable) for variable in part.trainable_variables} == its
    assert {id(v) for v in parts.lower.variables + parts.upper.variables} <= {id(v) for v in model.variables}
    return features


def encoder(model: keras.Model) -> Any:
    return next(layer for layer in model.layers if isinstance(layer, keras.Model))


@pytest.mark.parametrize("family", FAMILIES)
def test_head_only_keeps_one_vector_a_row(family: str) -> None:
    model = adapted(family, kpeft.HeadOnly(), dropout=0.1)
    parts = split(model)
    assert parts is not None
    (feature,) = assert_same_function(model, parts).values()
    output = encoder(model)(tiny_batch(model))
    expected = output["pooled_output"] if isinstance(output, dict) else output[:, 0]
    np.testing.assert_allclose(feature, expected, rtol=1e-6, atol=1e-6)
    head = [layer.name for layer in model.layers[model.layers.index(encoder(model)) + 1 :] if "item" not in layer.name]
    assert [layer.name for layer in parts.upper.layers[1:]] == head  # with its dropouts


@pytest.mark.parametrize("family", TWO_LAYERS)
@pytest.mark.parametrize("method", UPPER)
def test_upper_layers_keep_the_sequence(family: str, method: str) -> None:
    model = adapted(family, UPPER[method], dropout=0.1)
    parts = split(model)
    assert parts is not None
    assert parts.upper.input.keys() == {"frozen_0", "padding_mask"}
    (feature,) = assert_same_function(model, parts).values()
    backbone = encoder(model)
    below = keras.Model(backbone.input, backbone.get_layer(index=_first_block(backbone)).output)
    np.testing.assert_allclose(feature, below(tiny_batch(model)), rtol=1e-6, atol=1e-6)


def _first_block(backbone: Any) -> int:
    return next(i for i, layer in enumerate(backbone.layers) if layer.name.endswith("layer_0"))


@pytest.mark.parametrize("family", slow_but("bert", "albert"))
@pytest.mark.parametrize(
    "method",
    [kpeft.Full(), kpeft.BitFit(), kpeft.LoRA(rank=2), kpeft.Freeze(layers=0)],
    ids=["full", "bitfit", "lora", "embeddings"],
)
def test_nothing_is_cut_where_the_first_layer_trains(family: str, method: kpeft.Method) -> None:
    model = tiny_classifier(family)
    kpeft.adapt(model, method)
    assert split(model) is None


def test_alberts_frozen_layer_is_below() -> None:
    model = adapted("albert", kpeft.Freeze(layers=1))
    parts = split(model)
    assert parts is not None
    assert [layer.name for layer in parts.upper.layers[1:]] == ["pooled_dense", "output_dropout", "logits"]
    assert_same_function(model, parts)


def test_a_dropout_before_the_trained_part_is_its_own_and_those_below_are_off() -> None:
    model = adapted("bert", kpeft.HeadOnly(), dropout=0.5)
    parts = split(model)
    assert parts is not None
    batch = tiny_batch(model)
    still = parts.lower(batch)["frozen_0"]
    once, twice = (np.asarray(parts.joined(batch, training=True)) for _ in range(2))
    assert np.abs(once - twice).max() > 1e-3
    model.get_layer("classifier_dropout").rate = 0.0
    np.testing.assert_array_equal(parts.joined(batch, training=True), parts.upper({"frozen_0": still}, training=True))
    assert np.abs(np.asarray(model(batch, training=True)) - parts.joined(batch, training=True)).max() > 1e-3


def test_features_have_the_compute_dtype() -> None:
    model = adapted("roberta", UPPER["freeze"], dtype="mixed_bfloat16")
    parts = split(model)
    assert parts is not None
    assert parts.lower.output["frozen_0"].dtype == parts.upper.input["frozen_0"].dtype == "bfloat16"


def nodes_of(graph: Any) -> list[tuple[Any, ...]]:
    """The calls that Keras notes with each layer of a model, and of the models inside it."""
    inner = [node for each in graph.layers if isinstance(each, keras.Model) for node in nodes_of(each)]
    return [(each.name, *each._inbound_nodes, None, *each._outbound_nodes) for each in graph.operations] + inner


def test_splitting_leaves_the_model_and_detach_as_they_were() -> None:
    model = tiny_classifier("deberta_v3")
    before, layers = list(variable_paths(model)), [id(layer) for _, layer in walk(model)]
    logits = np.asarray(model(tiny_batch(model)))
    adaptation = kpeft.adapt(model, UPPER["lora"])
    nodes, saved = nodes_of(model), model.to_json()
    assert split(model) is not None
    assert (nodes_of(model), model.to_json()) == (nodes, saved)
    adaptation.detach()
    assert (list(variable_paths(model)), [id(layer) for _, layer in walk(model)]) == (before, layers)
    np.testing.assert_array_equal(model(tiny_batch(model)), logits)


@pytest.mark.parametrize(
    ("mask_zero", "statistics", "cut"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_implicit_masks_and_statistics_of_batches_are_not_cut(mask_zero: bool, statistics: bool, cut: bool) -> None:
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(9, 4, mask_zero=mask_zero)(tokens)
    x = keras.layers.BatchNormalization()(x) if statistics else x
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = keras.layers.Dense(3)(x)
    model = keras.Model({"token_ids": tokens}, keras.layers.GlobalAveragePooling1D()(x))
    for layer in model.layers[:-2]:
        layer.trainable = False
    assert (split(model) is not None) == cut


def test_only_graphs_are_cut() -> None:
    assert split(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])) is None

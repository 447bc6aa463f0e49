"""Structural paths, and one layer taking another's place."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
import numpy as np
import pytest

import kpeft
from kpeft.sites import Layout, TrainableFlags, replace_layer, set_trainable, variable_paths, walk
from tests.tiny import tiny_backbone, tiny_batch, tiny_classifier


def sequential() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(3), keras.layers.Dense(2)])


def test_paths_do_not_depend_on_what_was_built_before() -> None:
    first, second = list(variable_paths(sequential())), list(variable_paths(sequential()))
    assert first == second
    assert first[:3] == ["dense/kernel", "dense/bias", "dense_1/kernel"]
    assert list(variable_paths(tiny_classifier("bert"))) == list(variable_paths(tiny_classifier("bert")))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta_v3"])
def test_every_weight_has_one_path_adapted_or_not(family: str) -> None:
    model = tiny_classifier(family)
    before = variable_paths(model)
    assert {id(v) for v in before.values()} == {id(v) for v in model.weights}
    adaptation = kpeft.adapt(model, kpeft.LoRA(rank=2, targets="all-linear"))
    during = variable_paths(model)
    assert {path for path in during if not path.endswith(("lora_a", "lora_b"))} == set(before)
    assert all(during[path] is before[path] for path in before)
    adaptation.detach()
    assert {path: id(v) for path, v in variable_paths(model).items()} == {path: id(v) for path, v in before.items()}


def test_replacing_keeps_the_order_of_weights_and_is_undone() -> None:
    model = tiny_classifier("bert")
    weights = [id(v) for v in model.weights]
    layers = dict(walk(model))
    old = layers["bert_backbone/pooled_dense"]  # it stands in a functional graph
    new = keras.layers.Dense(old.units, activation="relu")
    new.build((None, 16))
    new.set_weights(old.get_weights())
    batch = tiny_batch(model)
    before = np.asarray(model(batch))
    replace_layer(model, old, new)
    changed = np.asarray(model(batch))
    assert np.abs(changed - before).max() > 1e-3
    assert model.get_layer(index=-3).pooled_dense is new
    assert old not in model._flatten_layers()
    replace_layer(model, new, old)
    np.testing.assert_array_equal(model(batch), before)
    assert [id(v) for v in model.weights] == weights


def test_every_model_that_shares_the_backbone_follows() -> None:
    task = keras_hub.models.BertTextClassifier(tiny_backbone("bert"), num_classes=2)
    plain = keras.Model(task.inputs, task.outputs)
    batch = tiny_batch(tiny_classifier("bert"))
    inputs = [batch[tensor.name] for tensor in plain.inputs]
    before = np.asarray(plain(inputs))
    adaptation = kpeft.adapt(task, kpeft.LoRA(rank=2, targets="pooler"))
    for variable in adaptation.trained_variables().values():
        variable.assign(np.full(variable.shape, 0.3))
    assert np.abs(np.asarray(plain(inputs)) - before).max() > 1e-3
    adaptation.detach()
    np.testing.assert_array_equal(plain(inputs), before)


def test_trainable_flags_come_back() -> None:
    model = tiny_classifier("bert")
    model.get_layer("logits").trainable = False
    flags = TrainableFlags.of(model)
    before = [v.trainable for v in model.weights]
    set_trainable(model, {id(model.weights[0])})
    assert [id(v) for v in model.trainable_variables] == [id(model.weights[0])]
    flags.restore()
    assert [v.trainable for v in model.weights] == before
    assert model.get_layer("logits").trainable is False


def test_layout_finds_the_family_in_a_task_a_classifier_and_a_users_model() -> None:
    backbone = tiny_backbone("xlm_roberta")
    assert (Layout.of(backbone).family.name, Layout.of(backbone).backbone) == ("xlm_roberta", "")  # type: ignore[union-attr]
    inner = tiny_classifier("roberta")
    outer = keras.Model(inner.inputs, keras.layers.Dense(3)(inner(inner.input)))
    layout = Layout.of(outer)
    assert layout.family is not None
    assert (layout.family.name, layout.backbone) == ("roberta", "roberta_classifier/roberta_backbone")
    assert Layout.of(sequential()).family is None


def test_adapt_refuses_an_unbuilt_model_and_says_that_it_cleared_a_compilation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ValueError, match=r"built keras\.Model"):
        kpeft.adapt(keras.Sequential([keras.layers.Dense(2)]), kpeft.Full())
    model = sequential()
    model.compile("sgd", "mse")
    kpeft.adapt(model, kpeft.Full())
    assert "compile it again" in caplog.text
    assert not model.compiled


def test_a_failing_adapt_changes_nothing() -> None:
    model = tiny_classifier("bert")
    flags = [(v.path, v.trainable) for v in model.weights]
    layers = [id(layer) for _, layer in walk(model)]
    for method, message in (
        (kpeft.LoRA(rank=17, init="olora"), "rank must be at most 16"),
        (kpeft.LoRA(train_head="top"), "Received: train_head='top'"),
        (kpeft.LoRA(targets="embeddings_layernorm"), "is a LayerNormalization"),
        (kpeft.LoRA(layers=(5,)), r"layers=\[5\]"),
        (kpeft.LoRA(rank_pattern={"key": 2}), "matches none of the adapted"),
        (kpeft.LoRA(targets="["), "neither a known name nor a regular expression"),
        (kpeft.Freeze(layers=3), "between 0 and 2"),
        (kpeft.HeadOnly(train_head=False), "train nothing"),
        (kpeft.BitFit(terms=("pooled",)), "terms='pooled' matches no layer"),
    ):
        with pytest.raises(ValueError, match=message):
            kpeft.adapt(model, method)
    assert [(v.path, v.trainable) for v in model.weights] == flags
    assert [id(layer) for _, layer in walk(model)] == layers


@pytest.mark.parametrize(
    ("family", "which", "trained"),
    [
        ("bert", "pooler", {"logits", "bert_backbone/pooled_dense"}),
        ("albert", "pooler", {"logits", "albert_backbone/pooled_dense"}),
        ("bert", "logits", {"logits"}),
        ("deberta_v3", "logits", {"logits"}),
        ("deberta_v3", "pooler", {"logits", "pooled_dense"}),
        ("roberta", "logits", {"logits"}),
        ("roberta", True, {"logits", "pooled_dense"}),
        ("roberta", False, set()),
    ],
)
def test_what_of_the_head_is_trained(family: str, which: bool | str, trained: set[str]) -> None:
    """Of what is not trained whole, the biases are BitFit's."""
    adaptation = kpeft.adapt(tiny_classifier(family), kpeft.BitFit(train_head=which))
    paths = set(adaptation.trained_variables())
    assert {path.rpartition("/")[0] for path in paths if path.endswith("/kernel")} == trained
    assert {"logits/bias", *(f"{layer}/bias" for layer in trained)} <= paths

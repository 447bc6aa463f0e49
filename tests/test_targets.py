"""What users call a layer, and the layers that it stands for."""

from __future__ import annotations

import keras
import pytest

import kpeft
from kpeft.families import FAMILIES
from kpeft.sites import Layout
from kpeft.targets import head_layers, layer_numbers, named_layers, resolve
from tests.tiny import tiny_classifier

LINEAR = {"query", "key", "value", "attention_output", "intermediate", "output"}


@pytest.fixture(scope="module", params=FAMILIES)
def layout(request: pytest.FixtureRequest) -> Layout:
    return Layout.of(tiny_classifier(request.param))


def test_every_name_of_a_family_is_in_the_model(layout: Layout) -> None:
    assert layout.family is not None
    found = {layer.place.keras for layer in named_layers(layout).values()}
    assert found == {place.keras for place in layout.family.places}
    shared = 1 if layout.family.name == "albert" else 2
    for term in LINEAR:
        assert len(resolve(layout, term)) == shared
    assert len({layer.hugging_face for layer in named_layers(layout).values()}) == len(named_layers(layout))


def test_all_linear_is_every_linear_layer_outside_the_head(layout: Layout) -> None:
    assert layout.family is not None
    names = {named_layers(layout)[path].place.term for path in resolve(layout, "all-linear")}
    assert names >= LINEAR
    assert names <= LINEAR | {"pooler", "embeddings_projection"}
    assert {path.rpartition("/")[2] for path in head_layers(layout)} <= {"pooled_dense", "logits"}
    assert not set(resolve(layout, "all-linear")) & head_layers(layout)


def test_tuples_and_expressions(layout: Layout) -> None:
    both = resolve(layout, ("value", "query"))
    assert both == resolve(layout, r".*/self_attention_layer/(query|value)")
    assert resolve(layout, ("query", r".*/value")) == both
    numbers = layer_numbers(layout)
    assert {numbers[path] for path in both} == ({0} if layout.family is FAMILIES["albert"] else {0, 1})


def test_an_expression_must_match_the_whole_path(layout: Layout) -> None:
    with pytest.raises(ValueError, match="matches no layer"):
        resolve(layout, "self_attention_layer/query")


def test_a_model_of_no_family() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2)])
    layout = Layout.of(model)
    assert resolve(layout, "all-linear") == ["first"]
    assert head_layers(layout) == {"dense"}
    assert (
        kpeft.adapt(model, kpeft.LoRA(rank=2, targets="first")).parameter_counts().trainable
        == 4 * 2 + 2 * 3 + 3 * 2 + 2
    )
    with pytest.raises(ValueError, match="holds none"):
        layer_numbers(layout)
    with pytest.raises(ValueError, match="Names it knows: all-linear"):
        resolve(layout, "query")


def test_freeze_freezes_embeddings_and_the_first_layers() -> None:
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.Freeze(layers=1))
    trained = adaptation.trained_variables()
    assert all("transformer_layer_1/" in p or "pooled_dense" in p or "logits" in p for p in trained)
    assert any("transformer_layer_1/self_attention_layer/query/kernel" in path for path in trained)
    adaptation.detach()
    adaptation = kpeft.adapt(model, kpeft.Freeze(layers=1, embeddings=False))
    assert "bert_backbone/token_embedding/embeddings" in adaptation.trained_variables()


@pytest.mark.parametrize(
    ("method", "option"),
    [
        (kpeft.LoRA(targets=()), "targets"),
        (kpeft.LoRA(layers=()), "layers"),
        (kpeft.QLoRA(targets=()), "targets"),
        (kpeft.AdaLoRA(targets=()), "targets"),
        (kpeft.IA3(targets=()), "targets"),
        (kpeft.VeRA(targets=()), "targets"),
        (kpeft.LoHa(targets=()), "targets"),
        (kpeft.LoKr(targets=()), "targets"),
        (kpeft.BitFit(terms=()), "terms"),
        (kpeft.LayerNorm(terms=()), "terms"),
    ],
)
def test_an_empty_choice_does_not_mean_the_head_alone(method: kpeft.Method, option: str) -> None:
    model = tiny_classifier("bert")
    with pytest.raises(ValueError, match=rf"{option} names no layer.*Received: {option}=\(\)"):
        kpeft.adapt(model, method)
    assert all(variable.trainable for variable in model.trainable_variables)


def test_ia3_may_scale_no_inputs() -> None:
    adaptation = kpeft.adapt(tiny_classifier("bert"), kpeft.IA3(targets=("output",), feedforward=()))
    assert {tuple(v.shape) for p, v in adaptation.trained_variables().items() if p.endswith("ia3_scale")} == {(16,)}


def test_layers_drop_no_target_that_is_named() -> None:
    model = tiny_classifier("bert")
    with pytest.raises(ValueError, match=r"target 'pooler' stands in no numbered layer, so that layers=\(1,\)"):
        kpeft.adapt(model, kpeft.LoRA(rank=2, targets=("query", "pooler"), layers=(1,)))
    adapted = kpeft.adapt(model, kpeft.LoRA(rank=2, targets="all-linear", layers=(1,))).adapters
    assert {path.split("/")[1] for path in adapted} == {"transformer_layer_1"}

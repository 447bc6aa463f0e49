"""One method at a time: what adapt refuses while a model carries another, and what two may share."""

from __future__ import annotations

import gc
from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft import live
from kpeft.layers.lora import LoRADense
from kpeft.sites import variable_paths
from tests.tiny import tiny_batch, tiny_classifier

UNDER = r"layers of model '.*' are under method {} already: call detach\(\).*LoRA\(\) \+ BitFit\(\)"


def state(model: Any) -> Any:
    variables = variable_paths(model)
    return {path: (keras.ops.convert_to_numpy(v.value).tobytes(), v.trainable) for path, v in variables.items()}


@pytest.mark.parametrize("first", [kpeft.QLoRA(rank=2), kpeft.VeRA(rank=3), kpeft.BitFit()])
def test_a_model_carries_one_method(first: Any) -> None:
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, first)
    before = state(model)
    for second in (kpeft.LoRA(rank=2), kpeft.Full(), kpeft.Prompt(tokens=2)):
        with pytest.raises(ValueError, match=UNDER.format(first.name)):
            kpeft.adapt(model, second)
    assert state(model) == before
    adaptation.merge()
    with pytest.raises(ValueError, match=UNDER.format(first.name)):
        kpeft.adapt(model, kpeft.HeadOnly())
    adaptation.detach()
    kpeft.adapt(model, kpeft.HeadOnly())
    after = state(model)
    with pytest.raises(ValueError, match="off the model already"):
        adaptation.detach()
    assert state(model) == after


def test_layers_that_are_gone_are_held_no_more() -> None:
    """Their ids may be those of another model's layers by then."""
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.QLoRA(rank=2))
    before = len(live._held[model].own)
    adaptation.merge()
    del adaptation
    gc.collect()
    assert 0 < len(live._held[model].own) < before


def test_nor_does_a_model_around_the_same_layers() -> None:
    model = tiny_classifier("bert")
    encoder = next(layer for layer in model.layers if "backbone" in layer.name)
    adaptation = kpeft.adapt(encoder, kpeft.Full())
    with pytest.raises(ValueError, match=UNDER.format("full")):
        kpeft.adapt(model, kpeft.LoRA(rank=2))
    adaptation.detach()
    kpeft.adapt(model, kpeft.LoRA(rank=2))


def test_a_lengthened_model_and_the_one_it_is_made_of() -> None:
    model = tiny_classifier("bert")
    batch, flags = tiny_batch(model), [v.trainable for v in model.weights]
    first, second = (kpeft.adapt(model, kpeft.Prompt(tokens=n)) for n in (2, 3))
    y = np.asarray(second.model(batch))
    for adapted, method in [(model, kpeft.LoRA(rank=2)), (first.model, kpeft.Prompt()), (first.model, kpeft.LoRA())]:
        with pytest.raises(ValueError, match=UNDER.format("prompt")):
            kpeft.adapt(adapted, method)
    first.detach()
    trained = {path for path in second.trained_variables() if "logits" not in path}
    assert [path.rpartition("/")[2] for path in trained] == ["prompt"]
    np.testing.assert_array_equal(second.model(batch), y)
    second.detach()
    assert [v.trainable for v in model.weights] == flags
    kpeft.adapt(model, kpeft.LoRA(rank=2))


def calls(model: Any) -> list[tuple[str, int, int]]:
    found = []
    for operation in model.operations:
        found.append((operation.name, len(operation._inbound_nodes), len(operation._outbound_nodes)))
        found += calls(operation) if hasattr(operation, "operations") else []
    return found


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_lengthened_model_leaves_no_calls_with_shared_layers(family: str, monkeypatch: Any) -> None:
    model = tiny_classifier(family)
    before, batch = calls(model), tiny_batch(model)
    first, second = (kpeft.adapt(model, kpeft.Prompt(tokens=n)) for n in (2, 3))
    first.detach()
    y = np.asarray(second.model(batch))
    around = keras.Model(second.model.inputs, keras.ops.softmax(second.model.outputs[0]))
    np.testing.assert_allclose(around(batch), np.asarray(keras.ops.softmax(y)), rtol=1e-5)
    second.detach()
    assert calls(model) == before
    monkeypatch.setattr("kpeft.lengthened.walk", None)
    with pytest.raises(TypeError):
        kpeft.adapt(model, kpeft.Prompt(tokens=2))
    assert calls(model) == before
    assert all(variable.trainable for variable in model.trainable_variables)


@pytest.mark.parametrize("method", [kpeft.LoRA(rank=2), kpeft.Prompt(tokens=2)])
def test_an_interrupt_leaves_the_model_as_it_was(method: Any, monkeypatch: Any) -> None:
    model = tiny_classifier("bert")
    before, made = state(model), [0]

    def interrupted(*args: Any, **kwargs: Any) -> None:
        made[0] += 1
        if made[0] == 2 or method.name == "prompt":
            raise KeyboardInterrupt

    monkeypatch.setattr(LoRADense, "build_adapter", interrupted)
    monkeypatch.setattr("kpeft.layers.lora.LoRALayer.build_adapter", interrupted)
    monkeypatch.setattr("kpeft.layers.prompt.ShiftedPositions.build_adapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kpeft.adapt(model, method)
    assert made[0]
    assert state(model) == before
    kpeft.adapt(model, kpeft.BitFit())

"""QLoRA: what is quantised, what is given up and what comes back, and the adapter's two files."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.frontier import split
from kpeft.layers.quantized import QuantizedLayer
from kpeft.sites import Layout, variable_paths, walk
from kpeft.targets import head_layers
from tests.tiny import tiny_batch, tiny_classifier


def values(model: Any) -> dict[str, Any]:
    return {path: keras.ops.convert_to_numpy(v.value).copy() for path, v in variable_paths(model).items()}


def size(model: Any) -> int:
    return sum(variable.value.nbytes for variable in model.weights)


def disturb(adaptation: Any) -> None:
    rng = np.random.default_rng(1)
    for variable in adaptation.trained_variables().values():
        variable.assign(keras.ops.convert_to_numpy(variable.value) + rng.normal(0, 0.3, variable.shape))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta_v3"])
def test_all_linear_layers_and_tables_but_the_head_are_quantised(family: str) -> None:
    model = tiny_classifier(family)
    linear = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding)
    head = head_layers(Layout.of(model))
    wanted = {path for path, layer in walk(model) if isinstance(layer, linear)} - head
    wanted |= {path for path, layer in walk(model) if type(layer).__name__ == "PositionEmbedding"}
    kpeft.adapt(model, kpeft.QLoRA(rank=2))
    found = {path for path, layer in walk(model) if isinstance(layer, QuantizedLayer)}
    assert found == wanted
    floats = {path.rpartition("/")[2] for path, v in variable_paths(model).items() if v.dtype == "float32"}
    allowed = {"bias", "gamma", "beta", "lora_a", "lora_b", "rel_embedding"}
    parts = ("_scales", "_steps", "_mean")
    assert {name for name in floats - allowed if not name.endswith(parts)} == {"kernel"}  # the head's


def test_the_more_bits_the_nearer_are_the_logits_to_those_of_the_float_model() -> None:
    errors = {}
    for quantization in ("int8", "nf4"):
        model = tiny_classifier("bert", hidden_dim=64, intermediate_dim=128)
        before = np.asarray(model(tiny_batch(model)))
        kpeft.adapt(model, kpeft.QLoRA(rank=2, quantization=quantization))
        errors[quantization] = np.abs(np.asarray(model(tiny_batch(model))) - before).max() / np.abs(before).max()
    assert 0 < 4 * errors["int8"] < errors["nf4"] < 0.5


def test_float_weights_are_given_up_and_come_back_dequantised() -> None:
    model = tiny_classifier("bert")
    before, whole = values(model), size(model)
    dense = next(layer for path, layer in walk(model) if path.endswith("layer_0/feedforward_intermediate_dense"))
    adaptation = kpeft.adapt(model, kpeft.QLoRA(rank=2, quantization="int8"))
    assert size(model) < 0.5 * whole
    with pytest.raises(ValueError, match=r"the weights of layer .* were quantised"):
        dense.kernel.value  # noqa: B018
    small = size(model)
    disturb(adaptation)
    logits = np.asarray(model(tiny_batch(model)))
    adaptation.merge()
    assert size(model) > whole
    adaptation.unmerge()
    assert size(model) == small
    np.testing.assert_array_equal(model(tiny_batch(model)), logits)
    adaptation.detach()
    assert size(model) == whole
    assert any(layer is dense for _, layer in walk(model))
    for path, value in values(model).items():
        step = np.abs(before[path]).max() / 127
        assert np.abs(value - before[path]).max() <= (0.51 * step if path.endswith(("kernel", "embeddings")) else 0)


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_training_is_that_of_lora_on_the_dequantised_weights(quantization: str) -> None:
    options: Any = {"rank": 2, "targets": "all-linear"}
    model = tiny_classifier("bert")
    trained: list[Any] = []
    for method in (kpeft.QLoRA(quantization=quantization, **options), kpeft.LoRA(**options)):
        adaptation = kpeft.adapt(model, method, seed=4)
        disturb(adaptation)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.fit(tiny_batch(model, rows=8), np.arange(8) % 2, batch_size=8, verbose=0)
        trained.append({path: np.asarray(v.value) for path, v in adaptation.trained_variables().items()})
        adaptation.detach()  # leaves the second the weights that the first had
    assert trained[0].keys() == trained[1].keys()
    for path, value in trained[0].items():
        np.testing.assert_allclose(value, trained[1][path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_merging_takes_effect_in_a_warm_predict() -> None:
    model = tiny_classifier("bert")
    batch = tiny_batch(model)
    adaptation = kpeft.adapt(model, kpeft.QLoRA(rank=2, targets="all-linear"))
    disturb(adaptation)
    adapted = model.predict(batch, verbose=0)
    adaptation.merge()
    query = next(layer for path, layer in walk(model) if isinstance(layer, keras.layers.EinsumDense))
    query.kernel.assign(query.kernel * 0)
    assert np.abs(model.predict(batch, verbose=0) - adapted).max() > 1e-3


def test_a_failed_adapt_changes_nothing() -> None:
    model = tiny_classifier("bert")
    before, flags = values(model), [v.trainable for v in model.weights]
    with pytest.raises(ValueError, match=r"needs an even rank"):
        kpeft.adapt(model, kpeft.QLoRA(rank=3, init="orthogonal"))
    assert [v.trainable for v in model.weights] == flags
    after = values(model)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path]) for path in before)


def test_parameters_are_counted_and_not_bytes() -> None:
    counts = []
    for method in (kpeft.LoRA(rank=2), kpeft.QLoRA(rank=2), kpeft.QLoRA(rank=2, quantization="int8")):
        adaptation = kpeft.adapt(tiny_classifier("roberta"), method)
        counts.append(adaptation.parameter_counts())
    adaptation.merge()
    assert set(counts) == {adaptation.parameter_counts()}
    assert len(set(counts)) == 1


def test_the_adapter_is_a_lora_adapter_that_remembers_its_base(tmp_path: Any) -> None:
    model = tiny_classifier("bert")
    method = kpeft.QLoRA(rank=2, quantization="int4", double_quantization=False, block_size=16, bias="all")
    adaptation = kpeft.adapt(model, method)
    disturb(adaptation)
    kpeft.save_adapter(adaptation, tmp_path)
    logits = np.asarray(model(tiny_batch(model)))
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    assert config["peft_type"] == "LORA"
    fresh = tiny_classifier("bert")
    loaded = kpeft.load_adapter(fresh, tmp_path)
    assert isinstance(loaded.method, kpeft.QLoRA)
    np.testing.assert_array_equal(fresh(tiny_batch(fresh)), logits)
    bits = config.pop("kpeft_quantization")
    assert bits == {"quantization": "int4", "double_quantization": False, "block_size": 16}
    file.write_text(json.dumps(config))
    on_float = kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    assert type(on_float.method) is kpeft.LoRA
    for path, variable in on_float.trained_variables().items():
        np.testing.assert_array_equal(variable, adaptation.trained_variables()[path])
    for wrong in ({"quantization": "int4"}, bits | {"block_size": "64"}, bits | {"quantization": "fp4"}):
        file.write_text(json.dumps(config | {"kpeft_quantization": wrong}))
        with pytest.raises(ValueError, match=r"kpeft_quantization|block_size|quantization must be"):
            kpeft.load_adapter(tiny_classifier("bert"), tmp_path)


def test_frozen_lower_layers_are_still_found() -> None:
    model = tiny_classifier("bert")
    kpeft.adapt(model, kpeft.QLoRA(rank=2, layers=(1,)))
    parts = split(model)
    assert parts is not None
    batch = tiny_batch(model)
    np.testing.assert_allclose(parts.joined(batch), model(batch), rtol=1e-5, atol=1e-5)


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"quantization must be int8, int4 or nf4. Received: quantization='fp4'"):
        kpeft.QLoRA(quantization="fp4")
    with pytest.raises(ValueError, match=r"block_size must be at least 2. Received: block_size=0"):
        kpeft.QLoRA(block_size=0)


def test_a_union_quantises_what_its_parts_do_and_trains_none_of_it() -> None:
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.QLoRA(rank=2) + kpeft.BitFit())
    assert any(isinstance(layer, QuantizedLayer) for _, layer in walk(model))
    assert any(path.endswith("intermediate_dense/bias") for path in adaptation.trained_variables())
    model = tiny_classifier("bert")
    before = values(model)
    with pytest.raises(ValueError, match=r"would train .*, which it quantises"):
        kpeft.adapt(model, kpeft.QLoRA(rank=2) + kpeft.Freeze(layers=1))
    after = values(model)
    assert all(np.array_equal(after[path], before[path]) for path in before)


@pytest.mark.parametrize("saved", [False, True])
def test_named_adapters_need_the_weights_that_it_gives_up(saved: bool, tmp_path: Any) -> None:
    method = kpeft.QLoRA(rank=2)
    if saved:
        kpeft.save_adapter(kpeft.adapt(tiny_classifier("bert"), method), tmp_path)
    model = tiny_classifier("bert")
    before = values(model)
    adapters = kpeft.NamedAdapters(model)
    with pytest.raises(ValueError, match=r"method 'qlora' gives up the model's own weights"):
        adapters.add("a", tmp_path if saved else method)
    after = values(model)
    assert adapters.names == ()
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path]) for path in before)


def test_a_failed_load_gives_nothing_up(tmp_path: Any) -> None:
    kpeft.save_adapter(kpeft.adapt(tiny_classifier("bert"), kpeft.QLoRA(rank=2)), tmp_path)
    model = tiny_classifier("bert", num_classes=3)
    before = values(model)
    with pytest.raises(ValueError, match=r"has shape \(2, 16\), but the model needs \(3, 16\)"):
        kpeft.load_adapter(model, tmp_path)
    after = values(model)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path]) for path in before)

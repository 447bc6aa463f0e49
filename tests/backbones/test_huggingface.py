"""Hugging Face folders against the logits that transformers gives for them."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

from kpeft.backbones import load_backbone, load_classifier
from kpeft.backbones.huggingface import classifier_from_folder

HF = Path(__file__).parents[1] / "goldens" / "hf"
FAMILIES = ("bert", "roberta", "xlm_roberta", "distilbert", "electra", "albert", "deberta_v3")
SHARED = Path(os.environ.get("KPEFT_GOLDENS_DIR", "/nonexistent")) / "peft_goldens"


def copy(tmp_path: Path, family: str) -> Path:
    return Path(shutil.copytree(HF / family, tmp_path / family))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, change: Any) -> None:
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)


def logits(model: keras.Model, folder: Path) -> np.ndarray:
    expected = np.load(folder / "expected.npz")
    return np.asarray(model.predict_on_batch({name: expected[name] for name in model.input}))


def test_golden_cases_cover_every_family() -> None:
    assert sorted(FAMILIES) == sorted(path.parent.name for path in HF.glob("*/expected.npz"))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_transformers(family: str) -> None:
    model, config, new = classifier_from_folder(HF / family, 3)
    assert (config.family, new) == (family, [])
    np.testing.assert_allclose(logits(model, HF / family), np.load(HF / family / "expected.npz")["logits"], atol=5e-6)


@pytest.mark.skipif(not SHARED.is_dir(), reason="KPEFT_GOLDENS_DIR is not set")
@pytest.mark.parametrize("case", sorted(p.parent.name for p in SHARED.glob("*/base.txt")))
def test_shared_goldens(case: str) -> None:
    expected = np.load(SHARED / case / "expected.npz")
    base = SHARED / "bases" / (SHARED / case / "base.txt").read_text().strip()
    model = load_classifier(str(base), expected["base_logits"].shape[1])
    np.testing.assert_allclose(logits(model, SHARED / case), expected["base_logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {"hidden_act": "gelu"}),
        ("bert", {"layer_norm_eps": 1e-12}),
        ("electra", {"hidden_act": "gelu_new"}),
        ("xlm_roberta", {"hidden_act": "gelu"}),
    ],
)
def test_config_matters(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = copy(tmp_path, family)
    edit_config(folder, **changes)
    model, _, _ = classifier_from_folder(folder, 3)
    assert np.abs(logits(model, folder) - np.load(folder / "expected.npz")["logits"]).max() > 1e-5


def _rates(model: keras.Model) -> dict[str, set[float]]:
    """Dropout rates by place: of the head, on attention probabilities, and all others in use."""
    rates: dict[str, set[float]] = {"head": set(), "attention": set(), "hidden": set()}
    head = {id(layer) for layer in model.layers}
    attention = set()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.MultiHeadAttention):
            assert layer._dropout == layer._dropout_layer.rate
            attention.add(id(layer._dropout_layer))
        if layer.name == "attention_dropout":
            attention.add(id(layer))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            kind = "head" if id(layer) in head else "attention" if id(layer) in attention else "hidden"
            rates[kind].add(layer.rate)
            assert not layer.rate or layer.seed_generator is not None
    return rates


@pytest.mark.parametrize(
    ("family", "changes", "head", "attention", "hidden"),
    [
        ("bert", {}, {0.1}, {0.2}, {0.1}),
        ("bert", {"hidden_dropout_prob": 0.0, "classifier_dropout": 0.5}, {0.5}, {0.2}, {0.0}),
        ("roberta", {}, {0.3}, {0.1}, {0.1}),
        ("electra", {}, {0.25}, {0.1}, {0.1}),
        ("distilbert", {}, {0.2}, {0.0}, {0.1, 0.0}),
        ("albert", {"hidden_dropout_prob": 0.3}, {0.1}, {0.0}, {0.3, 0.0}),
        ("deberta_v3", {"cls_dropout": 0.4, "attention_probs_dropout_prob": 0.3}, {0.0, 0.4}, {0.3}, {0.1}),
    ],
)
def test_dropout_rates_are_the_checkpoints(
    family: str, changes: dict[str, Any], head: set[float], attention: set[float], hidden: set[float], tmp_path: Path
) -> None:
    folder = copy(tmp_path, family)
    edit_config(folder, **changes)
    model, _, _ = classifier_from_folder(folder, 3)
    assert _rates(model) == {"head": head, "attention": attention, "hidden": hidden}


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_other_label_count_gives_a_new_head(family: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kpeft"):
        first, second, other = (load_classifier(str(HF / family), 2, seed=seed) for seed in (0, 0, 1))
    assert len(caplog.records) == 3
    assert "new, not from the preset" in caplog.text
    assert "logits (2 labels)" in caplog.text
    kernels = [model.get_layer("logits").get_weights()[0] for model in (first, second, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).min() > 0
    assert 0.005 < kernels[0].std() < 0.05
    assert not first.get_layer("logits").get_weights()[1].any()


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_bare_encoder_without_pooler(family: str, tmp_path: Path) -> None:
    folder = copy(tmp_path, family)

    def strip(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = {name: tensor for name, tensor in tensors.items() if "pooler" not in name and "classifier" not in name}
        return {name.removeprefix(f"{family}."): tensor for name, tensor in kept.items()}

    whole, _, _ = classifier_from_folder(folder, 3)
    edit_tensors(folder, strip)
    model, _, new = classifier_from_folder(folder, 3)
    assert new == ["pooled_dense", "logits"]
    batch = {name: np.load(folder / "expected.npz")[name] for name in model.input}
    encoders = [m.layers[len(batch)](batch)["sequence_output"] for m in (whole, model)]
    np.testing.assert_array_equal(encoders[0], encoders[1])


def test_old_layer_norm_names(tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def rename(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for new_name, old_name in old.items():
            tensors = {name.replace(new_name, old_name): tensor for name, tensor in tensors.items()}
        return tensors

    edit_tensors(folder, rename)
    model, _, _ = classifier_from_folder(folder, 3)
    np.testing.assert_allclose(logits(model, folder), np.load(folder / "expected.npz")["logits"], atol=5e-6)


def test_shards(tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        safetensors.numpy.save_file({name: tensors[name] for name in members}, folder / shard)
    index: dict[str, dict[str, Any]] = {
        "weight_map": {name: shard for shard, members in shards.items() for name in members}
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    model, _, _ = classifier_from_folder(folder, 3)
    np.testing.assert_allclose(logits(model, folder), np.load(folder / "expected.npz")["logits"], atol=5e-6)

    for wrong in ("../outside.safetensors", "/etc/passwd", "absent.safetensors", 3):
        index["weight_map"][names[0]] = wrong
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=r"shard"):
            classifier_from_folder(folder, 3)


def test_without_weights_is_random_but_seeded() -> None:
    models = [classifier_from_folder(HF / "bert", 3, seed=seed, load_weights=False)[0] for seed in (1, 1, 2)]
    outputs = [logits(model, HF / "bert") for model in models]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert np.abs(outputs[0] - outputs[2]).max() > 1e-3


def _shape(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return tensors | {"bert.encoder.layer.0.output.dense.weight": np.zeros((8, 11), "float32")}


def _missing(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: t for name, t in tensors.items() if name != "bert.encoder.layer.1.intermediate.dense.bias"}


def _integers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return tensors | {"bert.encoder.layer.0.output.dense.bias": np.zeros(8, "int32")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shape, r"model.safetensors: tensor 'bert.*output.dense.weight' must have shape \(8, 12\).*shape=\(8, 11\)"),
        (_missing, r"lack tensor 'bert.encoder.layer.1.intermediate.dense.bias' of shape \(12,\)"),
        (_integers, r"floating-point numbers. Received: dtype=I32"),
    ],
)
def test_wrong_tensors(change: Any, message: str, tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    edit_tensors(folder, change)
    with pytest.raises(ValueError, match=message):
        classifier_from_folder(folder, 3)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_file(keep: int, tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged or incomplete"):
        classifier_from_folder(folder, 3)


def test_pickled_or_no_weights(tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no weights; expected model.safetensors"):
        classifier_from_folder(folder, 3)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"pickled weights.*safe_serialization=True.*pytorch_model.bin"):
        classifier_from_folder(folder, 3)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("bert", {"model_type": "t5"}, r"unsupported architecture.*bert, roberta.*model_type='t5'"),
        ("bert", {"hidden_act": "tanh"}, r"hidden_act must be one of gelu.*'tanh'"),
        ("bert", {"hidden_size": None}, r"hidden_size must be a positive integer. Received: None"),
        ("bert", {"num_attention_heads": 3}, r"hidden size 8 does not divide into 3 heads"),
        ("bert", {"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must be a rate"),
        ("bert", {"position_embedding_type": "relative_key"}, r"position_embedding_type must be 'absolute'"),
        ("bert", {"layer_norm_eps": "x"}, r"layer_norm_eps must be a positive number"),
        ("deberta_v3", {"conv_kernel_size": 3}, r"conv_kernel_size must be 0"),
        ("distilbert", {"dim": "8"}, r"dim must be a positive integer. Received: '8'"),
    ],
)
def test_wrong_config(family: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = copy(tmp_path, family)
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=message):
        classifier_from_folder(folder, 3)


def test_load_backbone_brings_the_tokenizer(tmp_path: Path) -> None:
    folder = copy(tmp_path, "bert")
    with pytest.raises(ValueError, match=r"no vocabulary: expected tokenizer.json or vocab.txt"):
        load_backbone(str(folder), 3)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"]))
    backbone = load_backbone(str(folder), 3)
    assert (backbone.family, backbone.max_length, backbone.head_is_new) == ("bert", 16, False)
    assert backbone.tokenizer.encode_batch(["Hello hello there"]) == [[5, 5, 1]]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{i}" for i in range(40)]))
    with pytest.raises(ValueError, match=r"hold 32 word embeddings. Received: 44 tokens"):
        load_backbone(str(folder), 3)


def test_roberta_positions_without_the_two_unused_rows(tmp_path: Path) -> None:
    _, config, _ = classifier_from_folder(HF / "roberta", 3)
    assert config.max_length == 14

"""Hugging Face folders that kpeft writes: the tensors they were read from, and the same logits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import kpeft
from kpeft.backbones import load_backbone
from kpeft.backbones.huggingface_config import read_config, to_json
from kpeft.sites import variable_paths
from tests.tiny import FAMILIES, tiny_batch, tiny_classifier

HF = Path(__file__).parents[1] / "goldens" / "hf"


def inputs(family: str, model: Any) -> dict[str, np.ndarray]:
    expected = np.load(HF / family / "expected.npz")
    return {name: expected[name] for name in model.input}


def values(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {path: np.array(keras.ops.convert_to_numpy(v.value)) for path, v in variable_paths(model).items()}


def adapted(family: str) -> kpeft.Adaptation:
    """A golden model with LoRA on it, every trained number random."""
    model = kpeft.load_classifier(str(HF / family), 3)
    adaptation = kpeft.adapt(model, kpeft.LoRA(rank=2, targets=("query", "attention_output")))
    rng = np.random.default_rng(0)
    for variable in adaptation.trained_variables().values():
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return adaptation


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unadapted_model_is_written_as_it_was_read(family: str, tmp_path: Path) -> None:
    kpeft.save_huggingface(kpeft.load_classifier(str(HF / family), 3), tmp_path / "out")
    found = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    expected = safetensors.numpy.load_file(HF / family / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "roberta" in family and name.endswith("position_embeddings.weight"):
            assert not found[name][:2].any()  # never read
            found[name], value = found[name][2:], value[2:]
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "out", HF / family))
    new = {"problem_type"}
    unsaid = set() if family != "deberta_v3" else {"cls_dropout", "conv_kernel_size"}
    assert ours.keys() - new - unsaid <= theirs.keys()
    meant = {"classifier_dropout": theirs.get("hidden_dropout_prob")}  # what null stands for
    for name, value in ours.items():
        if name in theirs:
            assert value == (theirs[name] if theirs[name] is not None else meant[name]), name
    assert to_json(read_config(tmp_path / "out" / "config.json")) == to_json(read_config(HF / family / "config.json"))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_model_comes_back_to_the_bit(family: str, tmp_path: Path) -> None:
    adaptation = adapted(family)
    before = values(adaptation.model)
    kpeft.save_huggingface(adaptation, tmp_path / "out")
    assert not adaptation.merged
    assert all(np.array_equal(value, before[path]) for path, value in values(adaptation.model).items())
    adaptation.merge()
    merged = values(adaptation.detach())
    again = kpeft.load_classifier(str(tmp_path / "out"), 3)
    found = values(again)
    assert found.keys() == merged.keys()
    assert all(np.array_equal(value, merged[path]) for path, value in found.items())
    assert any(not np.array_equal(merged[path], before[path]) for path in merged)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if family in ("bert", "deberta_v3"):  # of the others, weights and config.json say as much
        batch = inputs(family, again)
        np.testing.assert_array_equal(again(batch), adaptation.model(batch))


def test_a_regression_model_of_kerashubs_own_classes(tmp_path: Path) -> None:
    model = tiny_classifier("roberta", num_classes=1)
    kpeft.save_huggingface(model, tmp_path / "out", labels=["similarity"])
    again = kpeft.load_classifier(str(tmp_path / "out"), 1)
    batch = tiny_batch(model)
    np.testing.assert_allclose(again(batch), model(batch), atol=1e-5)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["problem_type"], config["id2label"]) == ("regression", {"0": "similarity"})


def test_the_tokenizer_comes_along(tiny_preset: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_preset), 2)
    kpeft.save_huggingface(
        backbone.classifier, tmp_path / "out", preset=str(tiny_preset), labels=kpeft.TASKS["mrpc"].labels
    )
    again = load_backbone(str(tmp_path / "out"), 2)
    assert not again.head_is_new
    texts = ["Someone bought a book."]
    assert again.tokenizer.encode_batch(texts) == backbone.tokenizer.encode_batch(texts)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["label2id"] == {name: index for index, name in enumerate(kpeft.TASKS["mrpc"].labels)}
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (tiny_preset / "vocab.txt").read_bytes()


def test_what_cannot_be_written(tmp_path: Path) -> None:
    adaptation = adapted("bert")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="has adapters on it: give the adaptation"):
        kpeft.save_huggingface(adaptation.model, out)
    with pytest.raises(ValueError, match=r"labels must be 3 different names.*'yes'"):
        kpeft.save_huggingface(adaptation, out, labels=["no", "yes"])
    with pytest.raises(ValueError, match=r"no vocabulary: expected tokenizer.json or vocab.txt"):
        kpeft.save_huggingface(adaptation, out, preset=str(HF / "bert"))
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no text classifier of a known family"):
        kpeft.save_huggingface(other, out)
    x = keras.layers.Dense(3, name="more")(adaptation.detach().output)
    with pytest.raises(ValueError, match="has no place for 2 weights, more/kernel first"):
        kpeft.save_huggingface(keras.Model(adaptation.model.input, x), out)
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(ValueError, match="exists already"):
        kpeft.save_huggingface(adaptation.model, out)


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "transformers")), reason="needs torch and transformers"
)
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same(family: str, tmp_path: Path) -> None:
    import torch
    import transformers

    adaptation = adapted(family)
    kpeft.save_huggingface(adaptation, tmp_path / "out", labels=["a", "b", "c"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    names = {"token_ids": "input_ids", "padding_mask": "attention_mask", "segment_ids": "token_type_ids"}
    batch = inputs(family, adaptation.model)
    with torch.no_grad():
        logits = model(**{names[name]: torch.tensor(value) for name, value in batch.items()}).logits.numpy()
    np.testing.assert_allclose(logits, adaptation.model(batch), atol=1e-4)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}

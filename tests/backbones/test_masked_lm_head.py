"""Masked-LM heads against the logits that transformers gives for them, and presets that have none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import kpeft
from kpeft.backbones import load_classifier
from kpeft.backbones.masked_lm_head import MODULES, load_masked_lm_head
from kpeft.sites import Layout

GOLDENS = Path(__file__).parents[1] / "goldens" / "hf" / "masked_lm"
Tensors = dict[str, np.ndarray]


def head_and_encoder(folder: Path) -> tuple[Any, Any]:
    layout = Layout.of(load_classifier(str(folder)))
    encoder = layout.layers[layout.backbone]
    return load_masked_lm_head(str(folder), encoder), encoder


def logits(folder: Path, positions: np.ndarray) -> np.ndarray:
    head, encoder = head_and_encoder(folder)
    tokens = np.load(folder / "expected.npz")["token_ids"]
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens), "segment_ids": np.zeros_like(tokens)}
    outputs = encoder({name: inputs[name] for name in encoder.input})
    sequence = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    return np.asarray(head(sequence, mask_positions=positions))


def edited(folder: Path, change: Callable[[Tensors], Tensors], tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "model.safetensors"
    safetensors.numpy.save_file(change(safetensors.numpy.load_file(path)), path)
    return copy


@pytest.mark.parametrize("family", MODULES)
def test_logits_are_transformers(family: str) -> None:
    positions = np.array([[0, 3, 11], [5, 5, 1], [2, 7, 9]], "int32")
    expected = np.take_along_axis(np.load(GOLDENS / family / "expected.npz")["logits"], positions[..., None], axis=1)
    np.testing.assert_allclose(logits(GOLDENS / family, positions), expected, atol=2e-5)


@pytest.mark.parametrize("family", ["roberta", "distilbert"])  # their token embeddings lie in another layer
def test_it_is_found_below_virtual_tokens(family: str) -> None:
    folder = GOLDENS / family
    layout = Layout.of(kpeft.adapt(load_classifier(str(folder)), kpeft.Prompt(tokens=2)).model)
    encoder = layout.layers[layout.backbone]
    head = load_masked_lm_head(str(folder), encoder)
    assert head.token_embedding.embeddings.shape == (32, 8)
    tokens = np.load(folder / "expected.npz")["token_ids"]
    inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens), "segment_ids": np.zeros_like(tokens)}
    outputs = encoder({name: inputs[name] for name in encoder.input})
    sequence = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    assert sequence.shape == (*tokens.shape, 8)  # as long as the rows, so that positions meet their tokens


def test_only_the_word_embeddings_can_be_trained() -> None:
    head, encoder = head_and_encoder(GOLDENS / "bert")
    assert [variable.path for variable in head.trainable_variables] == [encoder.token_embedding.embeddings.path]
    assert encoder.token_embedding.embeddings.trainable


def test_old_names_and_a_second_copy_of_the_table(tmp_path: Path) -> None:
    def old(tensors: Tensors) -> Tensors:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for new, before in names.items():
            name = f"cls.predictions.transform.{new}"
            tensors[name.replace(new, before)] = tensors.pop(name)
        table = tensors["bert.embeddings.word_embeddings.weight"]
        return tensors | {"cls.predictions.decoder.weight": table.copy()}

    positions = np.zeros((3, 1), "int32")
    copy = edited(GOLDENS / "bert", old, tmp_path)
    np.testing.assert_array_equal(logits(copy, positions), logits(GOLDENS / "bert", positions))


def test_a_table_of_its_own_is_refused(tmp_path: Path) -> None:
    def untied(tensors: Tensors) -> Tensors:
        table = tensors["roberta.embeddings.word_embeddings.weight"]
        return tensors | {"lm_head.decoder.weight": table + 1}

    with pytest.raises(ValueError, match=r"table of its own \(lm_head.decoder.weight\)"):
        head_and_encoder(edited(GOLDENS / "roberta", untied, tmp_path))


def test_a_damaged_head_is_refused(tmp_path: Path) -> None:
    copy = edited(GOLDENS / "bert", lambda t: t | {"cls.predictions.bias": t["cls.predictions.bias"][:-1]}, tmp_path)
    with pytest.raises(ValueError, match=r"'cls.predictions.bias' must have shape \(32,\). Received: shape=\(31,\)"):
        head_and_encoder(copy)


def test_a_preset_without_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no masked-LM head \(cls.predictions.transform.dense.weight is not"):
        head_and_encoder(GOLDENS.parent / "bert")
    with pytest.raises(ValueError, match=r"as KerasHub's presets have none: .* hf://google-bert/bert-base-uncased"):
        load_masked_lm_head("bert_base_en_uncased", None)

"""KerasHub presets on disk: weights, the saved classifier's head, damage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import keras_hub
import numpy as np
import pytest

from kpeft.backbones import load_backbone, load_classifier
from tests.tiny import randomize, tiny_backbone, tiny_batch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "jose", "and", *(f"w{i}" for i in range(93))]


@pytest.fixture(scope="module")
def task() -> keras_hub.models.BertTextClassifier:
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(
        keras_hub.models.BertTokenizer(WORDS, lowercase=True), sequence_length=8
    )
    backbone = tiny_backbone("bert", dropout=0.1)
    classifier = keras_hub.models.BertTextClassifier(backbone, 3, preprocessor, activation="softmax", dropout=0.3)
    randomize(classifier, 0)
    return classifier


@pytest.fixture(scope="module")
def classifier_folder(task: keras_hub.models.BertTextClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preset") / "classifier"
    task.save_to_preset(str(folder))
    return folder


@pytest.fixture(scope="module")
def backbone_folder(task: keras_hub.models.BertTextClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preset") / "backbone"
    task.backbone.save_to_preset(str(folder))
    task.preprocessor.tokenizer.save_to_preset(str(folder))
    return folder


def test_backbone_preset(task: keras_hub.models.BertTextClassifier, backbone_folder: Path) -> None:
    backbone = load_backbone(str(backbone_folder), 2)
    assert (backbone.family, backbone.max_length, backbone.head_is_new) == ("bert", 32, True)
    assert backbone.tokenizer.encode_batch(["José and x"]) == [[5, 6, 1]]
    loaded = backbone.classifier.layers[3]
    assert type(loaded) is keras_hub.models.BertBackbone
    for found, expected in zip(loaded.get_weights(), task.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert backbone.classifier.get_layer("classifier_dropout").rate == 0.1


def test_saved_head_is_loaded_if_the_labels_agree(
    task: keras_hub.models.BertTextClassifier, classifier_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_classifier(str(classifier_folder), 3)
    assert not caplog.records
    assert model.get_layer("classifier_dropout").rate == 0.3
    batch = tiny_batch(model)
    logits = model.predict_on_batch(batch)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(shifted / shifted.sum(axis=1, keepdims=True), task(batch), atol=1e-6)
    assert np.abs(logits.sum(axis=1) - 1).max() > 0.1, "logits, not the saved softmax"


def test_saved_head_is_new_if_they_differ(classifier_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = [load_classifier(str(classifier_folder), 2, seed=seed) for seed in (0, 0, 1)]
    assert "logits (2 labels)" in caplog.text
    kernels = [model.get_layer("logits").get_weights()[0] for model in models]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).min() > 0
    # The preset holds dropout states of its own; the seed decides all the same.
    states = [[np.asarray(v).tolist() for v in m.non_trainable_variables] for m in models]
    assert states[0] == states[1]
    assert states[0] != states[2]


def test_unsupported_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"registered_name": "x>GPT2Backbone", "class_name": "GPT2Backbone"})
    )
    with pytest.raises(ValueError, match=r"unsupported architecture; use one of BertBackbone.*Received: GPT2Backbone"):
        load_classifier(str(tmp_path))


def test_damaged_presets(backbone_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone_folder, tmp_path / "preset"))
    weights = folder / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cannot be read") as error:
        load_classifier(str(folder))
    assert "--offline" not in str(error.value)
    assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(ValueError, match=r"no weights; expected model.weights.h5"):
        load_classifier(str(folder))
    shutil.rmtree(folder / "assets")
    with pytest.raises(ValueError, match=r"cannot be read .*vocabulary.txt"):
        load_backbone(str(folder), 2, load_weights=False)

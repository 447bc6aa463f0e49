"""KerasHub presets that kpeft writes: KerasHub alone loads them and computes the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest

import kpeft
from kpeft.backbones import load_backbone
from tests.tiny import FAMILIES, tiny_batch, tiny_classifier

HF = Path(__file__).parents[1] / "goldens" / "hf"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]


def adapted(model: Any) -> kpeft.Adaptation:
    adaptation = kpeft.adapt(model, kpeft.LoRA(rank=2, targets=("query", "attention_output")))
    rng = np.random.default_rng(0)
    for variable in adaptation.trained_variables().values():
        variable.assign(rng.normal(0, 0.3, variable.shape))
    return adaptation


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "electra"])
def test_kerashub_computes_the_same(family: str, tmp_path: Path) -> None:
    adaptation = adapted(tiny_classifier(family, dropout=0.2))
    kpeft.save_kerashub(adaptation, tmp_path / "preset")
    assert not adaptation.merged
    assert "kpeft" not in "".join(path.read_text() for path in (tmp_path / "preset").glob("*.json"))
    task = keras_hub.models.TextClassifier.from_preset(str(tmp_path / "preset"), preprocessor=None)
    adaptation.merge()
    model = adaptation.detach()
    again = kpeft.load_classifier(str(tmp_path / "preset"), 2)
    for loaded in (task, again):
        weights = [weight for weight in loaded.weights if "seed_generator" not in weight.path]
        expected = [weight for weight in model.weights if "seed_generator" not in weight.path]
        assert len(weights) == len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(weights, expected, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]
    if family == "bert":
        batch = tiny_batch(model)
        np.testing.assert_allclose(task(batch), model(batch), atol=1e-5)


def test_a_hugging_face_model_that_kerashub_can_hold(tmp_path: Path) -> None:
    family = "roberta"  # whose token-type row has no place of its own in KerasHub
    model = kpeft.load_classifier(str(HF / family), 3)
    kpeft.save_kerashub(model, tmp_path / "preset")
    expected = np.load(HF / family / "expected.npz")
    task = keras_hub.models.TextClassifier.from_preset(str(tmp_path / "preset"), preprocessor=None)
    logits = task({name: expected[name] for name in model.input})
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bert", r"BertBackbone has activation gelu_approximate, and the model relu; kpeft.save_huggingface"),
        ("xlm_roberta", r"XLMRobertaBackbone has activation gelu, and the model gelu_approximate"),
        ("electra", r"KerasHub has no classifier of family electra; kpeft.save_huggingface"),
    ],
)
def test_what_kerashub_would_compute_otherwise_is_refused(family: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        kpeft.save_kerashub(kpeft.load_classifier(str(HF / family), 3), tmp_path / "preset")
    assert list(tmp_path.iterdir()) == []


def test_exact_gelu_and_another_epsilon_are_refused(tmp_path: Path) -> None:
    config = json.loads((HF / "bert" / "config.json").read_text())
    for changes, message in (
        ({"hidden_act": "gelu"}, r"activation gelu_approximate, and the model gelu;"),
        ({"hidden_act": "gelu_new"}, r"has epsilon 1e-12, and the model 0.001;"),
    ):
        folder = tmp_path / str(changes["hidden_act"])
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | changes))
        model = kpeft.load_classifier(str(folder), 3, load_weights=False)
        with pytest.raises(ValueError, match=message):
            kpeft.save_kerashub(model, tmp_path / "preset")


def test_the_tokenizer_comes_along(tmp_path: Path) -> None:
    model = tiny_classifier("bert")
    source = keras_hub.models.BertTextClassifierPreprocessor(keras_hub.models.BertTokenizer(WORDS, lowercase=True))
    task = keras_hub.models.BertTextClassifier(model.layers[3], 2, source)
    task.save_to_preset(str(tmp_path / "source"))
    kpeft.save_kerashub(model, tmp_path / "preset", preset=str(tmp_path / "source"))
    kpeft.save_huggingface(model, tmp_path / "hugging_face", preset=str(tmp_path / "source"))
    for name in ("preset", "hugging_face"):
        backbone = load_backbone(str(tmp_path / name), 2)
        assert backbone.tokenizer.encode_batch(["W1 w2 x"]) == [[6, 7, 1]]
        assert not backbone.head_is_new
    again = keras_hub.models.TextClassifier.from_preset(str(tmp_path / "preset"))
    assert np.asarray(again.preprocessor(["w1 w2"])["token_ids"])[0, :4].tolist() == [2, 6, 7, 3]

"""Soft prompts and prefixes that Hugging Face PEFT wrote, and what we write for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import kpeft
from kpeft.layers.p_tuning import EncodedPrompt
from tests.adapters.test_files import edit_config, edit_tensors, saved
from tests.tiny import tiny_batch, tiny_classifier

GOLDENS = Path(__file__).parent.parent / "goldens"
FILE = "adapter_model.safetensors"
PROMPT, PREFIX = kpeft.Prompt(tokens=2), kpeft.Prefix(tokens=2)
CASES: dict[str, tuple[str, kpeft.Method]] = {
    **{f"prompt_{family}": (family, PROMPT) for family in ("bert", "roberta", "xlm_roberta", "distilbert")},
    **{f"prompt_{family}": (family, PROMPT) for family in ("electra", "albert")},
    "prompt_deberta_v3": ("deberta_v3", dataclasses.replace(PROMPT, train_head="logits")),
    "p_tuning_mlp_bert": ("bert", PROMPT),
    "p_tuning_lstm_roberta": ("roberta", PROMPT),
    **{f"prefix_{family}": (family, PREFIX) for family in ("bert", "roberta", "electra")},
    "prefix_projection_bert": ("bert", PREFIX),
}


def read(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    (base, method), folder = CASES[case], GOLDENS / "peft" / case
    inputs, expected = np.load(GOLDENS / "hf" / base / "expected.npz"), np.load(folder / "expected.npz")["logits"]
    assert np.abs(expected - inputs["logits"]).max() > 0.1
    adaptation = kpeft.load_adapter(kpeft.load_classifier(str(GOLDENS / "hf" / base), 3), folder)
    assert adaptation.method == method
    batch = {name: inputs[name] for name in adaptation.model.input}
    np.testing.assert_allclose(adaptation.model(batch), expected, rtol=1e-5, atol=2e-5)
    with adaptation.disabled() as disabled:
        np.testing.assert_allclose(disabled(batch), inputs["logits"], rtol=1e-5, atol=2e-5)
    kpeft.save_adapter(adaptation, tmp_path)
    assert (tmp_path / FILE).read_bytes() == (folder / FILE).read_bytes()
    if case.startswith("p_tuning"):
        return
    config, said = read(tmp_path), read(folder)
    assert config.keys() == said.keys()
    otherwise = {"auto_mapping", "base_model_name_or_path", "encoder_hidden_size", "modules_to_save"}
    otherwise.add("prefix_projection")
    if base == "albert":
        otherwise.add("num_layers")  # there, how often the layers are applied
    assert {k: v for k, v in config.items() if k not in otherwise} == {
        k: v for k, v in said.items() if k not in otherwise
    }


def encoder_of(case: str, **options: Any) -> tuple[EncodedPrompt, dict[str, Any]]:
    folder = GOLDENS / "peft" / case
    weights = {k: v for k, v in np.load(folder / "expected.npz").items() if k.startswith("encoder.")}
    base = keras.layers.Embedding(4, 8)
    base.build((None, None))
    layer = EncodedPrompt(base, tokens=2, **options)
    layer.build((None, None))
    layer.embedding.assign(weights["encoder.embedding.weight"])
    for number, name in enumerate(name for name in ("first", "second", "last") if _has(layer, name)):
        dense = layer.encoder.get_layer(name)
        dense.kernel.assign(weights[f"encoder.mlp_head.{2 * number}.weight"].T)
        dense.bias.assign(weights[f"encoder.mlp_head.{2 * number}.bias"])
    return layer, weights


def _has(layer: EncodedPrompt, name: str) -> bool:
    return any(each.name == name for each in layer.encoder.layers)


def test_the_mlp_is_pefts() -> None:
    layer, _ = encoder_of("p_tuning_mlp_bert", hidden=5)
    expected = load_file(GOLDENS / "peft" / "p_tuning_mlp_bert" / FILE)["prompt_embeddings"]
    np.testing.assert_allclose(layer.prompt(), expected, rtol=1e-5, atol=1e-6)


def test_the_lstm_is_pefts() -> None:
    layer, weights = encoder_of("p_tuning_lstm_roberta", encoder="lstm", hidden=3, layers=2)
    for number in (0, 1):
        both = layer.encoder.get_layer(f"lstm_{number}")
        for way, suffix in ((both.forward_layer, ""), (both.backward_layer, "_reverse")):
            part = {k: weights[f"encoder.lstm_head.{k}_l{number}{suffix}"] for k in ("weight_ih", "weight_hh")}
            bias = sum(weights[f"encoder.lstm_head.bias_{k}_l{number}{suffix}"] for k in ("ih", "hh"))
            way.set_weights([part["weight_ih"].T, part["weight_hh"].T, bias])
    expected = load_file(GOLDENS / "peft" / "p_tuning_lstm_roberta" / FILE)["prompt_embeddings"]
    np.testing.assert_allclose(layer.prompt(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        (kpeft.PTuning(tokens=3, hidden=5), kpeft.Prompt(tokens=3)),
        (kpeft.PTuning(tokens=3, encoder="lstm", encoder_layers=1), kpeft.Prompt(tokens=3)),
        (kpeft.Prefix(tokens=2, projection=True), kpeft.Prefix(tokens=2)),
    ],
)
def test_with_and_without_the_network(method: kpeft.Method, plain: kpeft.Method, tmp_path: Path) -> None:
    """Our file goes on training the network; the part that PEFT reads gives the same outputs without it."""
    expected = saved(tmp_path, method).model
    batch = tiny_batch(expected)
    again = kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    assert type(again.method) is type(method)
    np.testing.assert_array_equal(again.model(batch), expected(batch))
    edit_tensors(tmp_path, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith("kpeft.")])
    again = kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    assert again.method == plain
    np.testing.assert_allclose(again.model(batch), expected(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "family"),
    [
        (kpeft.Prompt(pool="cls"), "bert"),
        (kpeft.PTuning(tokens=2, place="inside"), "bert"),
        (kpeft.Prompt(train_head=False), "bert"),
        (kpeft.Prefix(), "distilbert"),
    ],
)
def test_what_peft_cannot_say_travels_in_our_own_format(method: kpeft.Method, family: str, tmp_path: Path) -> None:
    saved(tmp_path, method, family)
    assert read(tmp_path)["peft_type"].startswith("KPEFT_")


def shorter(tensors: dict[str, Any]) -> None:
    tensors["prompt_embeddings"] = tensors["prompt_embeddings"][:, :-1].copy()


@pytest.mark.parametrize(
    ("method", "config", "tensors", "message"),
    [
        (PROMPT, {"num_virtual_tokens": None}, None, "num_virtual_tokens must be of type int"),
        (PROMPT, {"num_virtual_tokens": 3}, None, r"num_virtual_tokens=3, token_dim=16 do not fit .*\(2, 16\)"),
        (PROMPT, {"token_dim": 15}, shorter, r"shape \(2, 15\), but the model needs \(2, 16\)"),
        (PROMPT, {}, shorter, r"num_virtual_tokens=2, token_dim=16 do not fit .*\(2, 15\)"),
        (PREFIX, {}, shorter, r"num_virtual_tokens=2, num_layers=2, token_dim=16 do not fit .*\(2, 63\)"),
        (
            PREFIX,
            {"num_layers": None},
            shorter,
            r"has shape \(2, 63\), but the model needs \(2, 64\)",
        ),
        (PREFIX, {"num_attention_heads": 4}, None, "num_attention_heads=4, but the model has 2"),
        (PROMPT, {"num_transformer_submodules": 2}, None, "num_transformer_submodules=2 is not supported"),
        (PREFIX, {}, lambda tensors: tensors.pop("prompt_embeddings"), "lacks prompt_embeddings"),
        (PROMPT, {}, lambda tensors: tensors.update(more=np.zeros(1)), "holds more"),
        (PROMPT, {}, lambda tensors: tensors.pop("base_model.classifier.bias"), "lacks 1 tensors"),
        (PROMPT, {"task_type": None, "modules_to_save": None}, None, "with a saved head"),
    ],
)
def test_files_that_do_not_fit(method: Any, config: Any, tensors: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, method)
    edit_config(tmp_path, **config)
    if tensors:
        edit_tensors(tmp_path, tensors)
    model = tiny_classifier("bert")
    before = np.asarray(model(tiny_batch(model)))
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(model, tmp_path)
    np.testing.assert_array_equal(model(tiny_batch(model)), before)

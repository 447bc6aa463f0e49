"""Adapters that Hugging Face PEFT wrote for (IA)³, LayerNorm tuning, VeRA and BitFit, and what we write for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kpeft
from tests.adapters.test_files import edit_config, edit_tensors, saved
from tests.tiny import tiny_batch, tiny_classifier

GOLDENS = Path(__file__).parent.parent / "goldens"
CASES: dict[str, kpeft.Method] = {
    "bitfit_bert": kpeft.BitFit(),
    "ia3_bert": kpeft.IA3(),
    "ia3_deberta_v3": kpeft.IA3(train_head="logits"),
    "ia3_distilbert": kpeft.IA3(
        targets=("query", "intermediate", "output"), feedforward=("intermediate",), train_head=False
    ),
    "ln_tuning_bert": kpeft.LayerNorm(),
    "ln_tuning_albert": kpeft.LayerNorm(terms=("output_layernorm",), train_head=False),
    "vera_bert": kpeft.VeRA(rank=5, dropout=0.1),
    "vera_roberta": kpeft.VeRA(rank=3, targets="all-linear", d_initial=0.2, projection_prng_key=7),
}


def read(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    folder = GOLDENS / "peft" / case
    base = GOLDENS / "hf" / case.split("_", 2 if case.startswith("ln") else 1)[-1]
    inputs, expected = np.load(base / "expected.npz"), np.load(folder / "expected.npz")["logits"]
    assert np.abs(expected - inputs["logits"]).max() > 0.1
    model = kpeft.load_classifier(str(base), 3)
    adaptation = kpeft.load_adapter(model, folder)
    assert adaptation.method == CASES[case]
    batch = {name: inputs[name] for name in model.input}
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    adaptation.merge()
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    adaptation.unmerge()
    with adaptation.disabled():
        np.testing.assert_allclose(model(batch), inputs["logits"], rtol=1e-5, atol=2e-5)
    kpeft.save_adapter(adaptation, tmp_path)
    name = "adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    ours, theirs = read(tmp_path), read(folder)
    assert ours.keys() == theirs.keys()
    for field in ("target_modules", "feedforward_modules"):
        if field in theirs and case != "vera_roberta":  # there "all-linear", spelt out with the head
            assert set(ours[field]) == set(theirs[field])
    said_otherwise = {"auto_mapping", "base_model_name_or_path", "modules_to_save", "target_modules"}
    assert {k: v for k, v in ours.items() if k not in said_otherwise} == {
        k: v for k, v in theirs.items() if k not in said_otherwise
    }


def test_matrices_that_peft_did_not_save_are_drawn_as_it_draws_them() -> None:
    folder, base = GOLDENS / "peft" / "vera_unsaved_distilbert", GOLDENS / "hf" / "distilbert"
    inputs, expected = np.load(base / "expected.npz"), np.load(folder / "expected.npz")["logits"]
    assert np.abs(expected - inputs["logits"]).max() > 0.1
    model = kpeft.load_classifier(str(base), 3)
    kpeft.load_adapter(model, folder)
    np.testing.assert_allclose(model({name: inputs[name] for name in model.input}), expected, rtol=1e-5, atol=2e-5)


def without_pooler(tensors: dict[str, Any]) -> None:
    for key in [key for key in tensors if ".pooler." in key]:
        del tensors[key]


def test_a_head_that_peft_saved_in_part_keeps_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_classifier("deberta_v3")
    expected = saved(tmp_path, kpeft.IA3(), "deberta_v3")
    kernel = np.asarray(model.get_layer("pooled_dense").kernel)
    for name in ("kernel", "bias"):
        of_fresh = getattr(model.get_layer("pooled_dense"), name)
        getattr(expected.model.get_layer("pooled_dense"), name).assign(of_fresh)
    edit_tensors(tmp_path, without_pooler)
    kpeft.load_adapter(model, tmp_path)
    assert "holds no pooler" in caplog.text
    np.testing.assert_array_equal(model.get_layer("pooled_dense").kernel, kernel)
    np.testing.assert_array_equal(model(tiny_batch(model)), expected.model(tiny_batch(model)))


def test_some_biases_travel_in_our_own_format(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.BitFit(terms=("value",)))
    assert read(tmp_path)["peft_type"] == "KPEFT_BITFIT"


def test_a_lora_adapter_that_can_learn_is_no_bitfit(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.BitFit())
    edit_config(tmp_path, lora_alpha=8)
    assert isinstance(kpeft.load_adapter(tiny_classifier("bert"), tmp_path).method, kpeft.LoRA)


def without_matrices(tensors: dict[str, Any]) -> None:
    del tensors["base_model.vera_A"]


def shorter_matrices(tensors: dict[str, Any]) -> None:
    tensors["base_model.vera_B"] = tensors["base_model.vera_B"][:, :2]


@pytest.mark.parametrize(
    ("method", "config", "tensors", "message"),
    [
        (kpeft.VeRA(rank=4), {"save_projection": False}, None, "save_projection=False, but the adapter holds"),
        (kpeft.VeRA(rank=4), {}, without_matrices, "lacks base_model.vera_A"),
        (kpeft.VeRA(rank=4), {}, shorter_matrices, r"vera_B has shape \(16, 2\), but the model needs \(16, 4\)"),
        (kpeft.VeRA(rank=4), {"bias": "all"}, None, "bias='all' is not supported"),
        (kpeft.VeRA(rank=4), {"target_modules": ["c_attn"]}, None, "'c_attn'.* match no layer"),
        (kpeft.IA3(), {"target_modules": ["c_attn"]}, None, "'c_attn'.* match no layer"),
        (kpeft.IA3(), {"feedforward_modules": []}, None, r"ia3_l has shape \(1, 16\), but the model needs \(16, 1\)"),
        (kpeft.LayerNorm(), {"target_modules": ["dense"]}, None, "is no LayerNorm"),
        (kpeft.LayerNorm(), {"target_modules": ["layernorm"]}, None, "'layernorm'.* match no layer"),
        (kpeft.LayerNorm(), {"target_modules": None}, None, "must name target_modules"),
    ],
)
def test_files_that_do_not_fit(method: Any, config: Any, tensors: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, method)
    edit_config(tmp_path, **config)
    if tensors:
        edit_tensors(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path)

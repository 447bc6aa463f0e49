"""LoHa and LoKr adapters that Hugging Face PEFT wrote, and what we write for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kpeft
from tests.adapters.test_files import edit_config, edit_tensors, saved
from tests.tiny import tiny_classifier

GOLDENS = Path(__file__).parent.parent / "goldens"
SOME = ("query", "attention_output", "intermediate")
CASES: dict[str, kpeft.Method] = {
    "loha_bert": kpeft.LoHa(rank=2, alpha=5, targets=SOME),
    "lokr_bert": kpeft.LoKr(rank=1, alpha=2, targets=SOME),
    "lokr_roberta": kpeft.LoKr(
        rank=1,
        decompose_both=True,
        decompose_factor=4,
        targets=("value", "attention_output", "output"),
        train_head=False,
    ),
}


def read(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    folder, base = GOLDENS / "peft" / case, GOLDENS / "hf" / case.split("_")[1]
    inputs, expected = np.load(base / "expected.npz"), np.load(folder / "expected.npz")["logits"]
    assert np.abs(expected - inputs["logits"]).max() > 0.1
    model = kpeft.load_classifier(str(base), 3)
    adaptation = kpeft.load_adapter(model, folder)
    assert adaptation.method == CASES[case]
    batch = {name: inputs[name] for name in model.input}
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    adaptation.merge()
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    kpeft.save_adapter(adaptation, tmp_path)
    name = "adapter_model.safetensors"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    ours, theirs = read(tmp_path), read(folder)
    said_otherwise = {"auto_mapping", "base_model_name_or_path", "modules_to_save", "target_modules"}
    assert ours.keys() == theirs.keys()
    assert {k: v for k, v in ours.items() if k not in said_otherwise} == {
        k: v for k, v in theirs.items() if k not in said_otherwise
    }


def narrower(tensors: dict[str, Any]) -> None:
    key = next(key for key in tensors if key.endswith("hada_w1_a"))
    tensors[key] = tensors[key][:, :1]


@pytest.mark.parametrize(
    ("method", "config", "tensors", "message"),
    [
        (kpeft.LoHa(rank=2), {}, narrower, r"hada_w1_a has shape \(16, 1\), but the model needs \(16, 2\)"),
        (kpeft.LoHa(), {"rank_pattern": {"query": 4}}, None, "rank_pattern=.* is not supported"),
        (kpeft.LoHa(), {"use_effective_conv2d": True}, None, "use_effective_conv2d=True is not supported"),
        (kpeft.LoKr(), {"target_modules": ["c_attn"]}, None, "'c_attn'.* match no layer"),
        (kpeft.LoKr(), {"decompose_factor": "4"}, None, "decompose_factor must be of type int"),
        (kpeft.LoKr(rank=1), {"decompose_both": True}, None, "lacks 8 tensors .*lokr_w1_a"),
    ],
)
def test_files_that_do_not_fit(method: Any, config: Any, tensors: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, method)
    edit_config(tmp_path, **config)
    if tensors:
        edit_tensors(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    with pytest.raises(ValueError, match="rank=0"):
        type(method)(rank=0)


def test_dropouts_of_peft_that_only_matter_in_training(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoKr())
    edit_config(tmp_path, module_dropout=0.1, rank_dropout=0.2, rank_dropout_scale=True, init_weights="lycoris")
    assert kpeft.load_adapter(tiny_classifier("bert"), tmp_path).method == kpeft.LoKr()

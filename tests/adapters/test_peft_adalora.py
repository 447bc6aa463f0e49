"""AdaLoRA adapters that Hugging Face PEFT wrote, whole and with directions left out, and what we write for them."""

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
METHOD = kpeft.AdaLoRA(
    rank=5, target_rank=2, alpha=6, targets=("query", "attention_output"), tinit=2, tfinal=3, delta_t=2
)


def read(folder: Path) -> Any:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("base", ["bert", "roberta"])
def test_golden(base: str, tmp_path: Path) -> None:
    folder = GOLDENS / "peft" / f"adalora_{base}"
    inputs, expected = np.load(GOLDENS / "hf" / base / "expected.npz"), np.load(folder / "expected.npz")["logits"]
    assert np.abs(expected - inputs["logits"]).max() > 0.1
    model = kpeft.load_classifier(str(GOLDENS / "hf" / base), 3)
    adaptation = kpeft.load_adapter(model, folder)
    assert adaptation.method == METHOD
    kept = [int(np.any(v)) for p, v in adaptation.trained_variables().items() if p.endswith("lora_e")]
    assert len(kept) == 4
    dropped = sum(int((np.asarray(v) == 0).sum()) for p, v in adaptation.trained_variables().items() if "lora_e" in p)
    assert dropped == (12 if base == "bert" else 0)
    batch = {name: inputs[name] for name in model.input}
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    adaptation.merge()
    np.testing.assert_allclose(model(batch), expected, rtol=1e-5, atol=2e-5)
    kpeft.save_adapter(adaptation, tmp_path)
    ours, theirs = read(tmp_path), read(folder)
    assert ours.keys() == theirs.keys()
    said_otherwise = {"auto_mapping", "base_model_name_or_path", "modules_to_save", "target_modules"}
    said_otherwise |= {"rank_pattern", "total_step"}
    assert {k: v for k, v in ours.items() if k not in said_otherwise} == {
        k: v for k, v in theirs.items() if k not in said_otherwise
    }
    assert ours["tinit"] < ours["total_step"] - ours["tfinal"]
    name = "adapter_model.safetensors"
    assert ((tmp_path / name).read_bytes() == (folder / name).read_bytes()) == (base == "roberta")
    again = kpeft.load_classifier(str(GOLDENS / "hf" / base), 3)
    kpeft.load_adapter(again, tmp_path)
    np.testing.assert_allclose(again(batch), expected, rtol=1e-5, atol=2e-5)


def wider(tensors: dict[str, Any]) -> None:
    key = next(key for key in tensors if key.endswith("lora_A"))
    tensors[key] = tensors[key][:, :-1]


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({}, wider, r"lora_A has shape \(12, 15\), but the model needs \(12, 16\)"),
        ({"bias": "all"}, None, "bias='all' is not supported"),
        ({"init_r": 11}, None, r"lora_A has shape \(12, 16\), but the model needs \(11, 16\)"),
        ({"target_r": 13}, None, "Received: target_rank=13"),
        ({"deltaT": 0.5}, None, "deltaT must be of type int"),
        ({"layer_replication": [[0, 1]]}, None, "layer_replication"),
    ],
)
def test_files_that_do_not_fit(config: Any, tensors: Any, message: str, tmp_path: Path) -> None:
    saved(tmp_path, kpeft.AdaLoRA())
    edit_config(tmp_path, **config)
    if tensors:
        edit_tensors(tmp_path, tensors)
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path)


def test_pefts_own_defaults(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.AdaLoRA())
    config = read(tmp_path)
    assert (config["tinit"], config["tfinal"], config["total_step"]) == (0.1, 0.5, 1)
    assert kpeft.load_adapter(tiny_classifier("bert"), tmp_path).method == kpeft.AdaLoRA()
    kept = {"peft_type", "task_type", "modules_to_save"}
    (tmp_path / "adapter_config.json").write_text(json.dumps({k: v for k, v in config.items() if k in kept}))
    loaded = kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    assert loaded.method == kpeft.AdaLoRA(alpha=8, tinit=0, tfinal=0)


def test_an_alpha_of_zero_scales_by_the_rank_as_in_peft(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.AdaLoRA())
    for alpha in (0, -2):
        edit_config(tmp_path, lora_alpha=alpha)
        assert kpeft.load_adapter(tiny_classifier("bert"), tmp_path).method == kpeft.AdaLoRA(alpha=12)

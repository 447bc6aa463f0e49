"""Adapters that Hugging Face PEFT wrote: they load, give their logits, and are written back byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import kpeft

CASES = [
    "dora_all_linear_bert",
    "ia3_bert",
    "lora_all_linear_bert",
    "lora_all_linear_roberta",
    "lora_bias_all_bert",
    "lora_named_bert",
    "lora_query_value_bert",
    "lora_query_value_roberta",
    "lora_regression_bert",
    "lora_tanh_gelu_bert",
]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, goldens_dir: Path, tmp_path: Path) -> None:
    folder = goldens_dir / "peft_goldens" / case
    expected = np.load(folder / "expected.npz")
    base = goldens_dir / "peft_goldens" / "bases" / (folder / "base.txt").read_text().strip()
    model = kpeft.load_classifier(str(base), expected["logits"].shape[1])
    inputs = {name: expected[name] for name in model.input}
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected["base_logits"], atol=1e-5)
    adaptation = kpeft.load_adapter(model, folder)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), expected["logits"], atol=1e-5)
    with adaptation.disabled():
        np.testing.assert_allclose(model.predict(inputs, verbose=0), expected["base_logits"], atol=1e-5)
    kpeft.save_adapter(adaptation, tmp_path)
    written = next(folder.rglob("adapter_model.safetensors"))
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == written.read_bytes()
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    theirs = json.loads(written.with_name("adapter_config.json").read_text())
    assert set(ours["target_modules"]) == set(theirs["target_modules"]) or case.startswith(("lora", "dora"))
    said_otherwise = {"base_model_name_or_path", "modules_to_save", "target_modules"}
    assert ours.keys() == theirs.keys()
    assert {k: v for k, v in ours.items() if k not in said_otherwise} == {
        k: v for k, v in theirs.items() if k not in said_otherwise
    }


def test_what_is_not_supported_is_refused_by_name(goldens_dir: Path, tmp_path: Path) -> None:
    folder = goldens_dir / "peft_goldens" / "lora_query_value_bert"
    base = goldens_dir / "peft_goldens" / "bases" / (folder / "base.txt").read_text().strip()
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, "layer_replication": [[0, 1]]}))
    with pytest.raises(ValueError, match=r"layer_replication=\[\[0, 1\]\] is not supported"):
        kpeft.load_adapter(kpeft.load_classifier(str(base), 2), copy)

"""LoRA's relatives and starts as PEFT wrote them (tests/goldens_peft/lora.py): loaded, computed and written back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kpeft
from kpeft.adapter_files import WEIGHTS

GOLDENS = Path(__file__).parent.parent / "goldens"
CASES = [
    "dora_bert",
    "dora_pissa_roberta",
    "lora_bias_bert",
    "lora_gaussian_bert",
    "lora_all_linear_deberta_v3",
    "lora_layers_albert",
    "lora_olora_bert",
    "lora_orthogonal_bert",
    "lora_pissa_bert",
    "lora_pooler_bert",
]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, tmp_path: Path) -> None:
    folder = GOLDENS / "peft" / case
    base = GOLDENS / "hf" / (folder / "base.txt").read_text().strip()
    inputs, expected = dict(np.load(base / "expected.npz")), np.load(folder / "expected.npz")["logits"]
    model = kpeft.load_classifier(str(base), 3)
    batch = {name: inputs[name] for name in model.input}
    start = np.asarray(model(batch))
    adaptation = kpeft.load_adapter(model, folder)
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(model(batch), expected, atol=1e-5)
    with adaptation.disabled():
        np.testing.assert_array_equal(model(batch), start)
    kpeft.save_adapter(adaptation, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    ours, theirs = (json.loads((each / "adapter_config.json").read_text()) for each in (tmp_path, folder))
    said_otherwise = {
        "base_model_name_or_path",
        "layers_to_transform",
        "modules_to_save",
        "rank_pattern",
        "target_modules",
    }
    assert {k: v for k, v in ours.items() if k not in said_otherwise} == {
        k: v for k, v in theirs.items() if k not in said_otherwise
    }
    adaptation.merge()
    np.testing.assert_allclose(model(batch), expected, atol=2e-5)

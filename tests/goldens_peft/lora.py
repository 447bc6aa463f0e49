"""LoRA's relatives and starts as Hugging Face PEFT saves and loads them: tests/goldens/peft/{dora,lora}_*."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

BASES = Path(__file__).parents[1] / "goldens" / "hf"
QUERY_VALUE = ["query", "value"]

# Name -> base under tests/goldens/hf, and the adapter's options.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dora_bert": ("bert", {"use_dora": True, "target_modules": "all-linear", "use_rslora": True, "bias": "lora_only"}),
    "dora_pissa_roberta": ("roberta", {"use_dora": True, "init_lora_weights": "pissa", "target_modules": QUERY_VALUE}),
    # DeBERTa's pooler is of the base, unlike the classifier; a rank above both widths.
    "lora_all_linear_deberta_v3": (
        "deberta_v3",
        {"target_modules": "all-linear", "bias": "all", "rank_pattern": {"pooler.dense": 12}},
    ),
    "lora_bias_bert": ("bert", {"lora_bias": True, "target_modules": ["query", "output.dense"]}),
    "lora_gaussian_bert": ("bert", {"init_lora_weights": "gaussian", "target_modules": QUERY_VALUE}),
    "lora_layers_albert": ("albert", {"target_modules": ["query"], "layers_to_transform": [1]}),
    "lora_olora_bert": ("bert", {"init_lora_weights": "olora", "target_modules": "all-linear"}),
    "lora_orthogonal_bert": ("bert", {"init_lora_weights": "orthogonal", "target_modules": QUERY_VALUE}),
    "lora_pissa_bert": (
        "bert",
        {"init_lora_weights": "pissa", "target_modules": "all-linear", "rank_pattern": {"query": 2}},
    ),
    "lora_pooler_bert": ("bert", {"target_modules": QUERY_VALUE, "modules_to_save": ["pooler"], "bias": "all"}),
}


def base_model(name: str) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(str(BASES / name)).eval()


def write_adapter(folder: Path, base: str, options: dict[str, Any]) -> None:
    """Writes an adapter whose every weight is random, and the logits that PEFT gives with it once loaded."""
    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=6, **options)
    model = peft.get_peft_model(base_model(base), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    model.save_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(base_model(base), folder).eval()
    inputs = dict(np.load(BASES / base / "expected.npz"))
    tokens = {
        "input_ids": torch.tensor(inputs["token_ids"]).long(),
        "attention_mask": torch.tensor(inputs["padding_mask"]).long(),
    }
    if base in ("bert", "albert"):
        tokens["token_type_ids"] = torch.tensor(inputs["segment_ids"]).long()
    with torch.no_grad():
        np.savez(folder / "expected.npz", logits=loaded(**tokens).logits.numpy())


def main(folder: Path) -> None:
    """Writes all cases into a folder."""
    for name, (base, options) in CASES.items():
        write_adapter(folder / name, base, options)
        (folder / name / "base.txt").write_text(base + "\n")

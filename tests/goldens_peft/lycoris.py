"""Writes tests/goldens/peft/{loha,lokr}_*: adapters by Hugging Face PEFT, and its logits with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

GOLDENS = Path(__file__).parents[1] / "goldens"
SOME = ["query", "attention.output.dense", "intermediate.dense"]
CASES: dict[str, tuple[str, Any]] = {
    "loha_bert": ("bert", peft.LoHaConfig(task_type="SEQ_CLS", r=2, alpha=5, target_modules=SOME)),
    "lokr_bert": ("bert", peft.LoKrConfig(task_type="SEQ_CLS", r=1, alpha=2, target_modules=SOME)),
    "lokr_roberta": (
        "roberta",
        peft.LoKrConfig(r=1, decompose_both=True, decompose_factor=4, target_modules=["value", "output.dense"]),
    ),
}


def main(folder: Path) -> None:
    """Writes a folder for each case."""
    for name, (base, config) in CASES.items():
        torch.manual_seed(1)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(str(GOLDENS / "hf" / base))
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.4 * torch.randn_like(parameter))
        expected = np.load(GOLDENS / "hf" / base / "expected.npz")
        inputs = {"input_ids": expected["token_ids"], "attention_mask": expected["padding_mask"]}
        if base == "bert":
            inputs["token_type_ids"] = expected["segment_ids"]
        with torch.no_grad():
            logits = adapted(**{key: torch.tensor(value) for key, value in inputs.items()}).logits.numpy()
        adapted.save_pretrained(folder / name)
        np.savez(folder / name / "expected.npz", base=base, logits=logits)

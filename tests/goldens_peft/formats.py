"""(IA)³, LayerNorm tuning, VeRA, and BitFit as an idle LoRA: tests/goldens/peft/{ia3,ln_tuning,vera,bitfit}_*."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

BASES = Path(__file__).parents[1] / "goldens" / "hf"

IDLE = "bert.encoder.layer.0.attention.self.query"
CASES: dict[str, tuple[str, Any]] = {
    "ia3_bert": ("bert", peft.IA3Config(task_type="SEQ_CLS")),
    "ia3_deberta_v3": ("deberta_v3", peft.IA3Config(task_type="SEQ_CLS")),
    "ia3_distilbert": (
        "distilbert",
        peft.IA3Config(target_modules=["q_lin", "lin1", "lin2"], feedforward_modules=["lin1"]),
    ),
    "ln_tuning_bert": ("bert", peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"])),
    "ln_tuning_albert": ("albert", peft.LNTuningConfig(target_modules=["full_layer_layer_norm"])),
    "vera_bert": ("bert", peft.VeraConfig(task_type="SEQ_CLS", r=5, vera_dropout=0.1)),
    "vera_roberta": (
        "roberta",
        peft.VeraConfig(r=3, target_modules="all-linear", d_initial=0.2, projection_prng_key=7, task_type="SEQ_CLS"),
    ),
    "vera_unsaved_distilbert": (
        "distilbert",
        peft.VeraConfig(
            task_type="SEQ_CLS", r=4, target_modules=["q_lin"], projection_prng_key=5, save_projection=False
        ),
    ),
    "bitfit_bert": ("bert", peft.LoraConfig(task_type="SEQ_CLS", r=1, lora_alpha=0, bias="all", target_modules=[IDLE])),
}


def main(folder: Path) -> None:
    """Writes a folder for each case."""
    for name, (base, config) in CASES.items():
        torch.manual_seed(1)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(str(BASES / base))
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_" in key:
                    parameter.zero_()
                elif parameter.requires_grad:
                    parameter.add_(0.4 * torch.randn_like(parameter))
        expected = np.load(BASES / base / "expected.npz")
        inputs = {"input_ids": expected["token_ids"], "attention_mask": expected["padding_mask"]}
        if base in ("bert", "albert"):
            inputs["token_type_ids"] = expected["segment_ids"]
        with torch.no_grad():
            logits = adapted(**{key: torch.tensor(value) for key, value in inputs.items()}).logits.numpy()
        adapted.save_pretrained(folder / name)
        np.savez(folder / name / "expected.npz", base=base, logits=logits)

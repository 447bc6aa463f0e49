"""Virtual tokens of Hugging Face PEFT: tests/goldens/peft/{prompt,p_tuning,prefix}_*."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

BASES = Path(__file__).parents[1] / "goldens" / "hf"
TOKENS = 2
_DISTILBERT = {"token_dim": 8, "num_layers": 2, "num_attention_heads": 2}
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "prompt_bert": ("bert", peft.PromptTuningConfig, {}),
    "prompt_roberta": ("roberta", peft.PromptTuningConfig, {}),
    "prompt_xlm_roberta": ("xlm_roberta", peft.PromptTuningConfig, {}),
    "prompt_distilbert": ("distilbert", peft.PromptTuningConfig, _DISTILBERT),
    "prompt_electra": ("electra", peft.PromptTuningConfig, {"token_dim": 6}),
    "prompt_albert": ("albert", peft.PromptTuningConfig, {"token_dim": 6}),
    "prompt_deberta_v3": ("deberta_v3", peft.PromptTuningConfig, {}),
    "p_tuning_mlp_bert": ("bert", peft.PromptEncoderConfig, {"encoder_hidden_size": 5}),
    "p_tuning_lstm_roberta": (
        "roberta",
        peft.PromptEncoderConfig,
        {"encoder_hidden_size": 3, "encoder_reparameterization_type": "LSTM", "encoder_num_layers": 2},
    ),
    "prefix_bert": ("bert", peft.PrefixTuningConfig, {}),
    "prefix_roberta": ("roberta", peft.PrefixTuningConfig, {}),
    "prefix_electra": ("electra", peft.PrefixTuningConfig, {}),
    "prefix_projection_bert": (
        "bert",
        peft.PrefixTuningConfig,
        {"prefix_projection": True, "encoder_hidden_size": 5},
    ),
}


def main(folder: Path) -> None:
    """Writes each case into a folder of its name."""
    for name, (base, config, options) in CASES.items():
        write(folder / name, base, config(task_type="SEQ_CLS", num_virtual_tokens=TOKENS, **options))


def write(folder: Path, base: str, config: Any) -> None:
    """Writes one adapter with random weights, what its encoder holds, and the logits of the base's own batch."""
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(BASES / base))
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    rows = np.load(BASES / base / "expected.npz")
    inputs = {"input_ids": rows["token_ids"], "attention_mask": rows["padding_mask"]}
    if base in ("bert", "electra", "albert"):
        inputs["token_type_ids"] = rows["segment_ids"]
    with torch.no_grad():
        logits = model(**{key: torch.tensor(value).long() for key, value in inputs.items()}).logits
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    encoder = {f"encoder.{key}": value.numpy() for key, value in model.prompt_encoder["default"].state_dict().items()}
    if list(encoder) == ["encoder.embedding.weight"]:
        encoder = {}
    np.savez(folder / "expected.npz", logits=logits.numpy(), **encoder)

"""Contestant: Hugging Face transformers and PEFT on torch, batches padded to their longest row."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from experiments.benchmarks.turns import Turns


def make_model(folder: str, method: str, rank: int, random_weights: bool) -> Any:
    """Returns a classifier with what `method` trains set to be trained."""
    if random_weights:
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, num_labels=2))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    if method in ("lora", "lora_all_linear"):
        targets = ["query", "value"] if method == "lora" else "all-linear"
        config = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, lora_dropout=0.1, target_modules=targets)
        return get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        in_head = name.startswith("classifier")
        parameter.requires_grad = in_head or method == "full" or (method == "bitfit" and "bias" in name)
    return model


def main() -> None:
    options = json.loads(sys.argv[1])
    with np.load(options["rows"]) as arrays:
        tokens, offsets, labels = (arrays[name] for name in ("tokens", "offsets", "labels"))
        segments = arrays.get("segments")
    size, device = options["batch_size"], "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(options["preset"], options["method"], options["rank"], options["random_weights"])
    model = model.to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=device == "cuda")  # as transformers' Trainer has it there
    if options["compile"]:
        model = torch.compile(model)

    def batch(rows: np.ndarray) -> dict[str, Any]:
        starts, lengths = offsets[rows], np.diff(offsets)[rows]
        names = ("input_ids", "attention_mask", *(() if segments is None else ("token_type_ids",)))
        inputs = {name: np.zeros((len(rows), lengths.max()), np.int64) for name in names}
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            inputs["input_ids"][i, :length] = tokens[start : start + length]
            inputs["attention_mask"][i, :length] = 1
            if segments is not None:
                inputs["token_type_ids"][i, :length] = segments[start : start + length]
        return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}

    turns = Turns(torch.cuda.synchronize, torch.cuda.max_memory_allocated) if device == "cuda" else Turns()
    turns.begin()
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(labels))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            with torch.autocast(device, dtype=torch.bfloat16, enabled=options["precision"] == "bfloat16"):
                logits = model(**batch(rows)).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(labels[rows]).long().to(device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if not turns.after_step(size, int(np.diff(offsets)[rows].sum())):
                return


if __name__ == "__main__":
    main()

"""Contestant: Hugging Face transformers and PEFT on torch, batches padded to their longest row."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from experiments.benchmarks.turns import EVAL_BATCH, Turns


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


class Rows:
    """The rows of a file of `rows.write_rows`."""

    def __init__(self, path: str) -> None:
        with np.load(path) as arrays:
            self.tokens, self.offsets, self.labels = (arrays[name] for name in ("tokens", "offsets", "labels"))
            self.segments = arrays.get("segments")
        self.lengths = np.diff(self.offsets)

    def batch(self, rows: np.ndarray, device: str) -> dict[str, torch.Tensor]:
        """Returns the named rows as the model's inputs, padded to their longest."""
        starts, lengths = self.offsets[rows], self.lengths[rows]
        names = ("input_ids", "attention_mask", *(() if self.segments is None else ("token_type_ids",)))
        inputs = {name: np.zeros((len(rows), lengths.max()), np.int64) for name in names}
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            inputs["input_ids"][i, :length] = self.tokens[start : start + length]
            inputs["attention_mask"][i, :length] = 1
            if self.segments is not None:
                inputs["token_type_ids"][i, :length] = self.segments[start : start + length]
        return {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}


def predict(model: Any, rows: Rows, device: str) -> torch.Tensor:
    """Returns the logits of all rows, in batches in their own order, as transformers' Trainer has it."""
    model.eval()
    batches = np.array_split(np.arange(len(rows.labels)), range(EVAL_BATCH, len(rows.labels), EVAL_BATCH))
    logits = torch.cat([model(**rows.batch(batch, device)).logits.float().cpu() for batch in batches])
    model.train()
    return logits


def main() -> None:
    options = json.loads(sys.argv[1])
    rows = Rows(options["rows"])
    size, device = options["batch_size"], "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(options["preset"], options["method"], options["rank"], options["random_weights"])
    model = model.to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=device == "cuda")  # as transformers' Trainer has it there
    if options["compile"]:
        model = torch.compile(model)
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16, enabled=options["precision"] == "bfloat16")
    turns = Turns(torch.cuda.synchronize, torch.cuda.max_memory_allocated) if device == "cuda" else Turns()
    if "validation" in options:
        validation = Rows(options["validation"])

        def evaluate() -> torch.Tensor:
            with torch.no_grad(), autocast():
                return predict(model, validation, device)

        turns.evaluate = evaluate
    turns.begin()
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(rows.labels))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            with autocast():
                logits = model(**rows.batch(chosen, device)).logits
            labels = torch.from_numpy(rows.labels[chosen]).long().to(device)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if not turns.after_step(size, int(rows.lengths[chosen].sum())):
                return


if __name__ == "__main__":
    main()

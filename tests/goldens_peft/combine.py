"""LoRA adapters, and what Hugging Face PEFT's add_weighted_adapter makes of them: tests/goldens/peft/combine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from safetensors.numpy import save_file

BASE = Path(__file__).parents[1] / "goldens" / "hf" / "bert"

ADAPTERS: dict[str, dict[str, Any]] = {
    "first": {"r": 3, "lora_alpha": 6, "target_modules": ["query", "value"]},
    "second": {"r": 3, "lora_alpha": 2, "target_modules": ["query", "value"]},
    "third": {
        "r": 2, "lora_alpha": 3, "use_rslora": True, "target_modules": ["query", "key"], "alpha_pattern": {"key": 5}
    },
}  # fmt: skip
PLAIN = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
SVD = ("svd", "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd")


def cases() -> dict[str, dict[str, Any]]:
    """Arguments of add_weighted_adapter by the case's name."""
    two: dict[str, Any] = {"adapters": ["first", "second"], "weights": [0.7, -1.3]}
    three: dict[str, Any] = {"adapters": ["first", "second", "third"], "weights": [1.0, 0.5, -0.25]}
    found = {kind: {**two, "combination_type": kind} for kind in PLAIN}
    found |= {kind: {**three, "combination_type": kind} for kind in (*SVD, "cat")}
    for kind, options in found.items():
        if kind not in ("linear", "svd", "cat"):
            options["density"] = 0.4
    for kind in ("ties", "ties_svd"):
        found[f"{kind}_frequency"] = {**found[kind], "majority_sign_method": "frequency"}
    found["svd_rank_5"] = {**found["svd"], "svd_rank": 5}
    found["svd_clamp"] = {**found["svd"], "svd_clamp": 0.9}
    found["one"] = {"adapters": ["second"], "weights": [-2.0], "combination_type": "svd"}
    return found


def adapted() -> Any:
    """The base with every adapter on it, all of their numbers random."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(BASE)).eval()
    for number, (name, options) in enumerate(ADAPTERS.items()):
        config = peft.LoraConfig(lora_dropout=0.1 * number, layers_to_transform=[1], **options)
        if number == 0:
            model = peft.get_peft_model(model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(0.0, 0.5)
    return model.eval()


def combine(model: Any, case: str, arguments: dict[str, Any], masks: dict[str, Any]) -> list[str]:
    """Adds the combined adapter and records what DARE kept, by case, module, part and adapter; returns the modules."""
    drawn: list[torch.Tensor] = []
    bernoulli = torch.bernoulli

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(bernoulli(*args, **kwargs))
        return drawn[-1]

    torch.bernoulli = record
    model.base_model.add_weighted_adapter(adapter_name=case, **arguments)
    torch.bernoulli = bernoulli
    layers = {n: m for n, m in model.base_model.model.named_modules() if case in getattr(m, "lora_A", {})}
    if drawn:
        parts = ("change",) if arguments["combination_type"].endswith("svd") else ("lora_A", "lora_B")
        keys = [
            f"{case}/mask/{module}/{part}/{name}"
            for module, layer in layers.items()
            for part in parts
            for name in arguments["adapters"]
            if name in layer.lora_A
        ]
        masks |= {key: mask.numpy().astype(bool) for key, mask in zip(keys, drawn, strict=True)}
    return list(layers)


def main(folder: Path) -> None:
    """Writes the adapters, cases.json, and expected.safetensors: tensors, masks and logits of each case."""
    model = adapted()
    model.save_pretrained(folder, selected_adapters=list(ADAPTERS))
    inputs = np.load(BASE / "expected.npz")
    batch = {"input_ids": "token_ids", "attention_mask": "padding_mask", "token_type_ids": "segment_ids"}
    expected: dict[str, Any] = {}
    for case, arguments in cases().items():
        torch.manual_seed(2)
        for module in combine(model, case, arguments, expected):
            layer = model.base_model.model.get_submodule(module)
            for part in ("lora_A", "lora_B"):
                expected[f"{case}/{module}.{part}"] = getattr(layer, part)[case].weight.detach().numpy().copy()
        model.set_adapter(case)
        model.eval()  # a new adapter comes in training mode
        with torch.no_grad():
            logits = model(**{name: torch.tensor(inputs[ours]) for name, ours in batch.items()}).logits
        expected[f"{case}/logits"] = logits.numpy().copy()
    save_file({key: np.ascontiguousarray(value) for key, value in expected.items()}, folder / "expected.safetensors")
    (folder / "cases.json").write_text(json.dumps(cases(), indent=1) + "\n")

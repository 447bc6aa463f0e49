"""Writes tests/goldens/peft/adalora_*: adapters as Hugging Face PEFT saves them, and steps of its RankAllocator."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import torch
import transformers

GOLDENS = Path(__file__).parents[1] / "goldens"
STEPS, RATE, DECAY, CLIP = 12, 0.05, 0.1, 4.0
PHASES: dict[str, dict[str, Any]] = {
    "three_phases": {"tinit": 2, "tfinal": 3, "deltaT": 2, "orth_reg_weight": 0.5},
    "to_the_end": {"tinit": 0, "tfinal": 0, "deltaT": 1, "orth_reg_weight": 3.0, "beta1": 0.6, "beta2": 0.4},
}


class Linear(torch.nn.Module):
    """Two layers, and a loss that is linear in their adapters' weights: its gradient is what we choose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(5, 4), torch.nn.Linear(4, 6)

    def forward(self, gradients: dict[str, Any]) -> Any:
        weights = dict(self.named_parameters())
        return SimpleNamespace(loss=sum((weights[name] * g).sum() for name, g in gradients.items()))


def write_steps(path: Path) -> None:
    """Writes the weights before and after each update, and the gradients of the loss without PEFT's addition."""
    arrays: dict[str, Any] = {}
    for case, phases in PHASES.items():
        torch.manual_seed(3)
        config = peft.AdaLoraConfig(
            init_r=4, target_r=2, total_step=STEPS, target_modules=["first", "second"], **phases
        )
        model = peft.get_peft_model(Linear(), config)
        inner = model.base_model.model
        weights = {n: p for n, p in inner.named_parameters() if p.requires_grad}
        assert len(weights) == 6
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=DECAY, eps=1e-8)
        values: dict[str, list[Any]] = {name: [weight.detach().numpy().copy()] for name, weight in weights.items()}
        chosen: dict[str, list[Any]] = {name: [] for name in weights}
        for step in range(1, STEPS + 1):
            gradients = {name: torch.randn_like(weight) * (0.1 + step % 3) for name, weight in weights.items()}
            model.base_model(gradients).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
            optimizer.step()
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            for name, weight in weights.items():
                values[name].append(weight.detach().numpy().copy())
                chosen[name].append(gradients[name].numpy())
        arrays |= {f"{case}/{name}": np.stack(each) for name, each in values.items()}
        arrays |= {f"{case}/{name}/gradients": np.stack(each) for name, each in chosen.items()}
    np.savez_compressed(path, **arrays)


def write_adapter(folder: Path, base: str, *, allocate: bool) -> None:
    """Writes an adapter whose every weight is random, some dropped, and PEFT's logits with it once loaded."""
    torch.manual_seed(0)
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS",
        init_r=5,
        target_r=2,
        lora_alpha=6,
        total_step=9,
        tinit=2,
        tfinal=3,
        deltaT=2,
        target_modules=["query", "attention.output.dense"],
    )
    path = GOLDENS / "hf" / base
    model = peft.get_peft_model(
        transformers.AutoModelForSequenceClassification.from_pretrained(str(path)), config
    ).eval()
    inputs = np.load(path / "expected.npz")
    tokens = {"input_ids": torch.tensor(inputs["token_ids"]), "attention_mask": torch.tensor(inputs["padding_mask"])}
    if base == "bert":
        tokens["token_type_ids"] = torch.tensor(inputs["segment_ids"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "ranknum" not in name:
                parameter.add_(0.6 * torch.randn_like(parameter))
    if allocate:
        model(**tokens).logits.square().sum().backward()
        for step in range(1, 7):
            model.base_model.update_and_allocate(step)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    fresh = transformers.AutoModelForSequenceClassification.from_pretrained(str(path))
    loaded = peft.PeftModel.from_pretrained(fresh, folder).eval()
    with torch.no_grad():
        logits = loaded(**tokens).logits.numpy()
    np.savez(folder / "expected.npz", base=base, logits=logits)


def main(folder: Path) -> None:
    """Writes everything."""
    (folder / "adalora_steps").mkdir(parents=True, exist_ok=True)
    write_steps(folder / "adalora_steps" / "steps.npz")
    write_adapter(folder / "adalora_bert", "bert", allocate=True)
    write_adapter(folder / "adalora_roberta", "roberta", allocate=False)

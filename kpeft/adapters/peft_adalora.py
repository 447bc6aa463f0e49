"""An AdaLoRA adapter in Hugging Face PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import Fields, Names
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_lora import FIELDS as LORA_FIELDS
from kpeft.adapters.peft_lora import lora_config
from kpeft.adapters.peft_modules import linear_targets, trained_head
from kpeft.adapters.peft_names import BASE, PeftName
from kpeft.methods import AdaLoRA, LoRA, Method
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import NamedLayer

# PEFT's names of AdaLoRA's own fields, kpeft's, and what PEFT takes where a config has none.
_FIELDS = {
    "init_r": ("rank", 12),
    "target_r": ("target_rank", 8),
    "tinit": ("tinit", 0),
    "tfinal": ("tfinal", 0),
    "deltaT": ("delta_t", 1),
    "beta1": ("beta1", 0.85),
    "beta2": ("beta2", 0.85),
    "orth_reg_weight": ("orth_reg_weight", 0.5),
}
FIELDS = Fields(
    read={
        **{field: type(usual) for field, (_, usual) in _FIELDS.items()},
        "tinit": float,
        "tfinal": float,
        "exclude_modules": Names,
        "layers_pattern": str | list[str] | None,
        "layers_to_transform": int | list[int] | None,
        "lora_alpha": float,
        "lora_dropout": float,
        "target_modules": Names,
    },
    refused={**LORA_FIELDS.refused, "bias": "none", "use_dora": False},
    passed_over={
        **LORA_FIELDS.passed_over,
        "alpha_pattern": "has no effect in AdaLoRA",
        "init_lora_weights": "how A and B started",
        "lora_bias": "has no effect in AdaLoRA",
        "r": "has no effect in AdaLoRA, whose ranks are init_r and target_r",
        "rank_pattern": "which directions were dropped; the tensors say so themselves",
        "total_step": "how long the training was",
        "use_rslora": "has no effect in AdaLoRA",
    },
)
_DEFAULT_TARGETS = {
    "bert": ["query", "value"],
    "roberta": ["query", "key", "value", "dense"],
    "deberta_v3": ["query_proj", "key_proj", "value_proj", "dense"],
}


class AdaLoRAFormat(PeftFormat):
    """`ADALORA`: A (r, in), E (r, 1) and B (out, r) of each adapted layer.

    PEFT leaves out of the file what its allocation dropped and lists it in `rank_pattern`; kpeft writes the zeros of E,
    and reads either.
    """

    peft_type = "ADALORA"
    methods = (AdaLoRA,)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, AdaLoRA)
        lora = LoRA(alpha=method.alpha, dropout=method.dropout, train_head=method.train_head)
        ranks, alphas = dict.fromkeys(adaptation.adapters, lora.rank), dict.fromkeys(adaptation.adapters, lora.alpha)
        own = {field: _whole_number(getattr(method, name)) for field, (name, _) in _FIELDS.items()}
        return {
            **lora_config(Layout.of(adaptation.model), lora, ranks, alphas),
            **own,
            "peft_type": self.peft_type,
            "rank_pattern": None,
            "total_step": int(method.tinit + method.tfinal) + 1,  # PEFT loads no adapter whose phases do not fit in
        }

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        FIELDS.check(config)
        train_head = trained_head(layout, config)
        usual = _DEFAULT_TARGETS.get(layout.family.name if layout.family else "")
        if usual is None and config.get("target_modules") is None:
            raise ValueError("adapter_config.json must name target_modules for this model.")
        values: dict[str, Any] = {
            **{name: config.get(field, default) for field, (name, default) in _FIELDS.items()},
            "alpha": config.get("lora_alpha", 8),
            "dropout": config.get("lora_dropout", 0.0),
            "targets": linear_targets(layout, config, usual, train_head=train_head),
            "train_head": train_head,
        }
        check_types(AdaLoRA, values)
        if values["alpha"] <= 0:  # PEFT then scales by the rank
            values["alpha"] = values["rank"]
        return AdaLoRA(**values)

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        layer, _, variable = path.rpartition("/")
        if variable not in ("lora_a", "lora_e", "lora_b") or layer not in layers:
            return super().name(path, layers, adaptation)
        key = f"{BASE}{layers[layer].hugging_face}.lora_{variable[-1].upper()}"
        return PeftName(key, variable != "lora_e", (-1, 1))

    def values(self, adaptation: Adaptation, tensors: Tensors) -> Tensors:
        method = adaptation.method
        assert isinstance(method, AdaLoRA)
        return super().values(adaptation, _whole(tensors, method.rank))


def _whole_number(value: float) -> float:
    """Returns 2 for 2.0, as PEFT has numbers of steps; a share of a run stays one."""
    return int(value) if value == int(value) else value


def _whole(tensors: Tensors, rank: int) -> Tensors:
    """Returns A, E and B with zeros for what was dropped; which of the r directions are zero makes no difference.

    Raises:
        ValueError: If they are not of one rank in a layer.
    """
    ranks: dict[str, int] = {}
    whole = dict(tensors)
    for key, tensor in tensors.items():
        layer, _, part = key.rpartition(".")
        axis = {"lora_A": 0, "lora_E": 0, "lora_B": 1}.get(part)
        if axis is None or tensor.ndim != 2:
            continue
        own = tensor.shape[axis]
        if ranks.setdefault(layer, own) != own:
            raise ValueError(
                f"tensor {key} has shape {tensor.shape}, and another of its layer is of rank {ranks[layer]}."
            )
        missing = [(0, 0), (0, 0)]
        missing[axis] = (0, max(0, rank - own))
        whole[key] = np.pad(tensor, missing)
    return whole

"""A LoRA adapter in Hugging Face PEFT's format: its tensors, and the copies of the head's biases beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_lora import PEFT_TYPE, lora_config, lora_method
from kpeft.adapters.peft_modules import modules_to_save
from kpeft.adapters.peft_names import BASE, PeftName
from kpeft.layers.lora import LoRALayer
from kpeft.methods import DoRA, LoRA, Method, QLoRA
from kpeft.methods.low_rank import LowRank
from kpeft.sites import Layout
from kpeft.targets import head_layers


class LoRAFormat(PeftFormat):
    """`LORA`, which is LoRA, DoRA and QLoRA: A and B of each adapted layer, its bias or all of them, and the head."""

    peft_type = PEFT_TYPE
    methods = (LoRA, DoRA, QLoRA)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, LowRank)
        layers = {path: layer for path, layer in adaptation.adapters.items() if isinstance(layer, LoRALayer)}
        ranks, alphas = {p: a.rank for p, a in layers.items()}, {p: a.alpha for p, a in layers.items()}
        return lora_config(Layout.of(adaptation.model), method, ranks, alphas)

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        return lora_method(layout, config)

    def method_for(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> Method:
        embedding = next((key for key in sorted(tensors) if ".lora_embedding_" in key), None)
        if embedding is not None:
            module = embedding.rpartition(".")[0].removeprefix(BASE)
            raise ValueError(
                f"adapter_config.json: target_modules={config.get('target_modules')!r} adapt {module}, an embedding; "
                "kpeft adapts linear layers."
            )
        return super().method_for(layout, config, tensors)

    def extra(self, adaptation: Adaptation, names: Mapping[str, PeftName], tensors: Tensors) -> Tensors:
        method = adaptation.method
        assert isinstance(method, LowRank)
        return head_bias_copies(adaptation, names, tensors) if method.bias == "all" and method.train_head else {}


def head_bias_copies(adaptation: Adaptation, names: Mapping[str, PeftName], tensors: Tensors) -> Tensors:
    """Returns what PEFT writes beside a whole head under bias="all": its biases, trained and original, once more.

    In a head of several layers, the trained one's key holds the adapter's name, which kpeft writes as "default".
    """
    copies: dict[str, np.ndarray[Any, Any]] = {}
    head = head_layers(Layout.of(adaptation.model), adaptation.method.train_head)
    for path, start in adaptation.start_values().items():
        layer, _, variable = path.rpartition("/")
        if variable != "bias" or layer not in head:
            continue
        key = names[path].key
        top = modules_to_save(key.removeprefix(BASE))
        rest = key.removeprefix(f"{BASE}{top}.")
        pattern = rf"{re.escape(BASE + top)}\.modules_to_save\.([^.]+\.)?{re.escape(rest)}"
        written = f"{BASE}{top}.modules_to_save.{'default.' if '.' in rest else ''}{rest}"
        in_file = [name for name in tensors if re.fullmatch(pattern, name)]
        copies |= dict.fromkeys(in_file or [written], tensors.get(key, np.zeros(0)))
        copies[f"{BASE}{top}.original_module.{rest}"] = start
    return copies

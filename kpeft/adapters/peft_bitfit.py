"""BitFit as Hugging Face PEFT can hold it: every bias beside a LoRA adapter that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapter_files import is_bitfit
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_lora import PEFT_TYPE, lora_config, lora_method
from kpeft.adapters.peft_lora_format import head_bias_copies
from kpeft.adapters.peft_names import BASE, PeftName
from kpeft.methods import BitFit, LoRA, Method
from kpeft.sites import Layout
from kpeft.targets import named_layers, resolve


class BitFitFormat(PeftFormat):
    """`LORA` with bias="all", and alpha 0 on the first query: in PEFT, too, only the biases can then learn."""

    peft_type = PEFT_TYPE
    methods = (BitFit,)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        layout = Layout.of(adaptation.model)
        idle = _idle(layout)
        method = LoRA(rank=1, alpha=0.0, targets=idle, bias="all", train_head=adaptation.method.train_head)
        return lora_config(layout, method, {idle: 1}, {idle: 0.0})

    def reads(self, config: Mapping[str, Any]) -> bool:
        return super().reads(config) and is_bitfit(config)

    def writes(self, adaptation: Adaptation) -> bool:
        method = adaptation.method
        return isinstance(method, BitFit) and method.terms is None and super().writes(adaptation)

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        return BitFit(train_head=lora_method(layout, config).train_head)

    def extra(self, adaptation: Adaptation, names: Mapping[str, PeftName], tensors: Tensors) -> Tensors:
        return head_bias_copies(adaptation, names, tensors) if adaptation.method.train_head else {}

    def tensors(self, adaptation: Adaptation) -> Tensors:
        layout = Layout.of(adaptation.model)
        idle = _idle(layout)
        module = BASE + named_layers(layout)[idle].hugging_face
        width = layout.layers[idle].kernel.shape[0]
        tensors = dict(super().tensors(adaptation))
        tensors[f"{module}.base_layer.bias"] = tensors.pop(f"{module}.bias")
        tensors[f"{module}.lora_A.weight"] = np.zeros((1, width), "float32")
        tensors[f"{module}.lora_B.weight"] = np.zeros((width, 1), "float32")
        return tensors

    def values(self, adaptation: Adaptation, tensors: Tensors) -> Tensors:
        biases = {
            key.replace(".base_layer.bias", ".bias"): value
            for key, value in tensors.items()
            if not key.endswith((".lora_A.weight", ".lora_B.weight"))
        }
        return super().values(adaptation, biases)


def _idle(layout: Layout) -> str:
    """Returns the path of the layer that has the idle LoRA; PEFT wants at least one."""
    return resolve(layout, "query")[0]

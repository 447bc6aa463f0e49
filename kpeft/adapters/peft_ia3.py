"""An (IA)³ adapter in Hugging Face PEFT's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kpeft.adaptation import Adaptation
from kpeft.adapters.peft_config import COMMON, Fields, Names
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_modules import (
    head_fields,
    is_target,
    kpeft_targets,
    linear_modules,
    no_target,
    short_names,
    trained_head,
)
from kpeft.adapters.peft_names import BASE, PeftName, hugging_face_modules
from kpeft.layers.ia3 import IA3Linear
from kpeft.methods import IA3, Method
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import NamedLayer

FIELDS = Fields(
    read={"exclude_modules": Names, "feedforward_modules": Names, "target_modules": Names},
    refused={},
    passed_over={
        "fan_in_fan_out": "PEFT sets it to false for every linear layer of an encoder",
        "init_ia3_weights": "how the vectors started",
    },
)
# What PEFT takes where a config names no modules; for other families it wants them named.
_DEFAULTS = {
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "roberta": (["key", "value", "output.dense"], ["output.dense"]),
    "deberta_v3": (["key_proj", "value_proj", "output.dense"], ["output.dense"]),
}


class IA3Format(PeftFormat):
    """`IA3`: `ia3_l` of each adapted layer, (out, 1) or, in the feed-forward, (1, in)."""

    peft_type = "IA3"
    methods = (IA3,)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        layout = Layout.of(adaptation.model)
        modules = hugging_face_modules(layout)
        adapted = {module for module, path in modules.items() if path in adaptation.adapters}
        feedforward = {module for module in adapted if _scales_inputs(adaptation, modules[module])}
        # Named apart from the others, since PEFT wants the ones among the targets under the same names.
        feedforward_names = short_names(feedforward, set(modules))
        return {
            **COMMON,
            "exclude_modules": None,
            "fan_in_fan_out": False,
            "feedforward_modules": feedforward_names,
            "init_ia3_weights": True,
            "peft_type": self.peft_type,
            "target_modules": sorted({*short_names(adapted - feedforward, set(modules)), *feedforward_names}),
            **head_fields(layout, adaptation.method.train_head),
        }

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        FIELDS.check(config)
        train_head = trained_head(layout, config)
        linear = linear_modules(layout, outside_head=train_head)
        targets, feedforward = config.get("target_modules"), config.get("feedforward_modules")
        defaults = _DEFAULTS.get(layout.family.name if layout.family else "")
        if (targets is None or feedforward is None) and defaults is None:
            raise ValueError("adapter_config.json must name target_modules and feedforward_modules for this model.")
        if defaults is not None:
            targets = defaults[0] if targets is None else targets
            feedforward = defaults[1] if feedforward is None else feedforward
        adapted = [module for module in linear if is_target(module, targets, config)]
        if not adapted:
            raise no_target(layout, targets)
        inputs = [linear[module] for module in adapted if _is_feedforward(module, feedforward)]
        values: dict[str, Any] = {
            "targets": kpeft_targets(layout, [linear[module] for module in adapted]),
            "feedforward": kpeft_targets(layout, inputs) if inputs else (),
            "train_head": train_head,
        }
        check_types(IA3, values)
        return IA3(**values)

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        layer, _, variable = path.rpartition("/")
        if variable != "ia3_scale" or layer not in layers:
            return super().name(path, layers, adaptation)
        shape = (1, -1) if _scales_inputs(adaptation, layer) else (-1, 1)
        return PeftName(f"{BASE}{layers[layer].hugging_face}.ia3_l", False, shape)


def _scales_inputs(adaptation: Adaptation, path: str) -> bool:
    layer = adaptation.adapters[path]
    assert isinstance(layer, IA3Linear)
    return layer.scale_inputs


def _is_feedforward(module: str, names: Any) -> bool:
    """PEFT's own rule, which unlike that for targets looks at the end of the name whatever stands before it."""
    return re.fullmatch(names, module) is not None if isinstance(names, str) else module.endswith(tuple(names))

"""Tuned LayerNorms in Hugging Face PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kpeft.adaptation import Adaptation
from kpeft.adapters.peft_config import COMMON, Fields, Names
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_modules import head_fields, is_target, kpeft_targets, no_target, short_names, trained_head
from kpeft.adapters.peft_names import BASE, PeftName, hugging_face_modules
from kpeft.methods import LayerNorm, Method
from kpeft.sites import Layout
from kpeft.targets import NamedLayer

FIELDS = Fields(read={"exclude_modules": Names, "target_modules": Names}, refused={}, passed_over={})
_NAMES = {"gamma": "weight", "beta": "bias"}


class LayerNormFormat(PeftFormat):
    """`LN_TUNING`: a tuned copy of each LayerNorm."""

    peft_type = "LN_TUNING"
    methods = (LayerNorm,)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        layout = Layout.of(adaptation.model)
        modules = hugging_face_modules(layout)
        trained = {path.rpartition("/")[0] for path in adaptation.trained_variables() if _is_scale(path)}
        tuned = {module for module, path in modules.items() if path in trained}
        return {
            **COMMON,
            "exclude_modules": None,
            "peft_type": self.peft_type,
            "target_modules": short_names(tuned, set(modules)),
            **head_fields(layout, adaptation.method.train_head),
        }

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        FIELDS.check(config)
        train_head = trained_head(layout, config)
        modules = hugging_face_modules(layout)
        targets = config.get("target_modules")
        if targets is None:
            raise ValueError("adapter_config.json must name target_modules for this model.")
        tuned = [module for module in modules if is_target(module, targets, config)]
        others = [m for m in tuned if not isinstance(layout.layers[modules[m]], keras.layers.LayerNormalization)]
        if not tuned:
            raise no_target(layout, targets)
        if others:
            raise ValueError(
                f"adapter_config.json: target_modules={targets!r} match {others[0]}, which is no LayerNorm."
            )
        every = {p for p, each in layout.layers.items() if isinstance(each, keras.layers.LayerNormalization)}
        paths = [modules[module] for module in tuned]
        if set(paths) == every:
            return LayerNorm(train_head=train_head)
        terms = kpeft_targets(layout, paths)
        return LayerNorm(terms=(terms,) if isinstance(terms, str) else terms, train_head=train_head)

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        layer, _, variable = path.rpartition("/")
        if variable in _NAMES and layer in layers:
            return PeftName(f"{BASE}{layers[layer].hugging_face}.ln_tuning_layers.{_NAMES[variable]}", False)
        return super().name(path, layers, adaptation)


def _is_scale(path: str) -> bool:
    return path.rpartition("/")[2] == "gamma"

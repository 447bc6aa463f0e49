"""LoHa and LoKr adapters in Hugging Face PEFT's formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

from kpeft.adaptation import Adaptation
from kpeft.adapters.peft_config import COMMON, Fields, Names
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_modules import head_fields, linear_targets, short_names, trained_head
from kpeft.adapters.peft_names import BASE, PeftName, hugging_face_modules
from kpeft.methods import LoHa, LoKr, Method
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import NamedLayer

_READ = {
    "alpha": float,
    "exclude_modules": Names,
    "layers_pattern": str | list[str] | None,
    "layers_to_transform": int | list[int] | None,
    "r": int,
    "target_modules": Names,
}
_REFUSED: dict[str, Any] = {"alpha_pattern": {}, "rank_pattern": {}, "use_effective_conv2d": False}
_PASSED_OVER = {
    "init_weights": "how the factors started",
    "module_dropout": "of whole layers, in training only",
    "rank_dropout": "of whole outputs, in training only",
}
_DEFAULT_TARGETS = {"distilbert": ["q_lin", "v_lin"], "deberta_v3": ["query_proj", "value_proj"]}


class _LycorisFormat(PeftFormat):
    """What both have in common: rank, alpha and targets."""

    kind: ClassVar[type[Method]]
    fields: ClassVar[Fields] = Fields(_READ, _REFUSED, _PASSED_OVER)
    options: ClassVar[Mapping[str, Any]] = {}
    tensor_names: ClassVar[Mapping[str, str]]
    """PEFT's name of each of the layer's variables; its matrix is the other way round."""

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method: Any = adaptation.method
        layout = Layout.of(adaptation.model)
        modules = hugging_face_modules(layout)
        adapted = {module for module, path in modules.items() if path in adaptation.adapters}
        return {
            **COMMON,
            **self.fields.refused,
            "init_weights": True,
            "module_dropout": 0.0,
            "rank_dropout": 0.0,
            **{option: getattr(method, option) for option in self.options},
            "alpha": int(method.alpha) if method.alpha == int(method.alpha) else method.alpha,
            "exclude_modules": None,
            "layers_pattern": None,
            "layers_to_transform": None,
            "peft_type": self.peft_type,
            "r": method.rank,
            "target_modules": short_names(adapted, set(modules)),
            **head_fields(layout, method.train_head),
        }

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        self.fields.check(config)
        train_head = trained_head(layout, config)
        usual = _DEFAULT_TARGETS.get(layout.family.name if layout.family else "", ["query", "value"])
        values = {
            "rank": config.get("r", 8),
            "alpha": config.get("alpha", 8),
            "targets": linear_targets(layout, config, usual, train_head=train_head),
            **{option: config.get(option, usual) for option, usual in self.options.items()},
            "train_head": train_head,
        }
        check_types(self.kind, values)
        return self.kind(**values)

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        layer, _, variable = path.rpartition("/")
        if variable not in self.tensor_names or layer not in layers:
            return super().name(path, layers, adaptation)
        return PeftName(f"{BASE}{layers[layer].hugging_face}.{self.tensor_names[variable]}", True)


@final
class LoHaFormat(_LycorisFormat):
    """`LOHA`: hada_w1_a (out, r) and hada_w1_b (r, in) of the first change of each layer, and w2 of the second."""

    peft_type = "LOHA"
    methods = (LoHa,)
    kind = LoHa
    tensor_names: ClassVar[Mapping[str, str]] = {
        "loha_a1": "hada_w1_b",
        "loha_b1": "hada_w1_a",
        "loha_a2": "hada_w2_b",
        "loha_b2": "hada_w2_a",
    }


@final
class LoKrFormat(_LycorisFormat):
    """`LOKR`: lokr_w1 (p, m) and lokr_w2 (q, n), or the factors of each, a (·, r) and b (r, ·)."""

    peft_type = "LOKR"
    methods = (LoKr,)
    kind = LoKr
    fields = Fields(
        {**_READ, "decompose_both": bool, "decompose_factor": int},
        _REFUSED,
        {**_PASSED_OVER, "rank_dropout_scale": "matters only together with rank_dropout"},
    )
    options: ClassVar[Mapping[str, Any]] = {"decompose_both": False, "decompose_factor": -1}
    tensor_names: ClassVar[Mapping[str, str]] = {
        "lokr_w1": "lokr_w1",
        "lokr_a1": "lokr_w1_b",
        "lokr_b1": "lokr_w1_a",
        "lokr_w2": "lokr_w2",
        "lokr_a2": "lokr_w2_b",
        "lokr_b2": "lokr_w2_a",
    }

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        return {**super().config(adaptation), "rank_dropout_scale": False}

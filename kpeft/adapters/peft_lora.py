"""A LoRA adapter in Hugging Face PEFT's format: what adapter_config.json says, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kpeft.adapter_files import QUANTIZATION
from kpeft.adapters.peft_config import COMMON, Fields, Names
from kpeft.adapters.peft_modules import (
    head_fields,
    is_target,
    kpeft_targets,
    linear_modules,
    no_target,
    short_names,
    trained_head,
)
from kpeft.adapters.peft_names import hugging_face_modules
from kpeft.methods import DoRA, LoRA, QLoRA
from kpeft.methods.fields import check_types
from kpeft.methods.low_rank import BIAS_MODES, STARTS, LowRank
from kpeft.sites import Layout

PEFT_TYPE = "LORA"
# To PEFT a QLoRA adapter is a LoRA adapter, whose base may have any bits; it warns that it ignores this field.
_QUANTIZATION_FIELDS = ("quantization", "double_quantization", "block_size")
FIELDS = Fields(
    read={
        "alpha_pattern": dict[str, float] | None,
        "bias": str,
        "exclude_modules": Names,
        "init_lora_weights": bool | str | None,
        "layers_pattern": str | list[str] | None,
        "layers_to_transform": int | list[int] | None,
        "lora_alpha": float,
        "lora_bias": bool,
        "lora_dropout": float,
        "r": int,
        "rank_pattern": dict[str, int] | None,
        "target_modules": Names,
        "use_dora": bool,
        "use_rslora": bool,
    },
    refused={
        "alora_invocation_tokens": None,
        "arrow_config": None,
        "corda_config": None,
        "ensure_weight_tying": False,
        "kasa_config": None,
        "layer_replication": None,
        "lora_ga_config": None,
        "megatron_config": None,
        "monteclora_config": None,
        "target_parameters": None,
        "trainable_token_indices": None,
        "use_bdlora": None,
        "use_qalora": False,
        "velora_config": None,
    },
    passed_over={
        "eva_config": "how A started; what it made of the ranks is in rank_pattern",
        "fan_in_fan_out": "PEFT sets it to false for every linear layer of an encoder",
        "loftq_config": "how A and B started, where init_lora_weights is loftq, which is refused",
        QUANTIZATION: "kpeft's own, read below",
        "megatron_core": "matters only together with megatron_config, which is refused",
        "qalora_group_size": "matters only together with use_qalora, which is refused",
        "runtime_config": "PEFT neither saves nor reads it",
    },
)
# What kpeft writes for the fields that it passes over.
_PASSED_OVER: dict[str, Any] = {
    "eva_config": None,
    "fan_in_fan_out": False,
    "loftq_config": {},
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}
# Of these, `pissa` and `olora` take the start out of the base's kernels, and PEFT does so again when it loads the
# adapter. The other starts that change kernels cannot be made again: they need data, or random numbers.
_STARTS: dict[Any, str] = {True: "default", False: "default", None: "default", "eva": "default"}
_STARTS |= {name: name for name in STARTS if name != "default"}
_DEFAULT_TARGETS = {"distilbert": ["q_lin", "v_lin"], "deberta_v3": ["query_proj", "value_proj"]}


def lora_config(
    layout: Layout, method: LowRank, ranks: Mapping[str, int], alphas: Mapping[str, float]
) -> dict[str, Any]:
    """Returns adapter_config.json of a LoRA, DoRA or QLoRA adaptation.

    Args:
        layout: The adapted model.
        method: Its method.
        ranks: The rank of each adapted layer, by structural path.
        alphas: Likewise.
    """
    modules = hugging_face_modules(layout)
    adapted = {module: path for module, path in modules.items() if path in ranks}
    bits: dict[str, Any] = {}
    if isinstance(method, QLoRA):
        bits[QUANTIZATION] = {name: getattr(method, name) for name in _QUANTIZATION_FIELDS}
    return {
        **COMMON,
        **FIELDS.refused,
        **_PASSED_OVER,
        **bits,
        "alpha_pattern": {m: alphas[p] for m, p in adapted.items() if alphas[p] != method.alpha},
        "bias": method.bias,
        "exclude_modules": None,
        "init_lora_weights": True if method.init == "default" else method.init,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(method.alpha) if method.alpha == int(method.alpha) else method.alpha,
        "lora_bias": isinstance(method, LoRA) and method.lora_bias,
        "lora_dropout": method.dropout,
        "peft_type": PEFT_TYPE,
        "r": method.rank,
        "rank_pattern": {m: ranks[p] for m, p in adapted.items() if ranks[p] != method.rank},
        "target_modules": short_names(set(adapted), set(modules)),
        "use_dora": isinstance(method, DoRA),
        "use_rslora": method.use_rslora,
        **head_fields(layout, method.train_head),
    }


def lora_method(layout: Layout, config: Mapping[str, Any]) -> LowRank:
    """Returns the LoRA or DoRA method that a PEFT config describes, for a given model; QLoRA where kpeft says so in it.

    Raises:
        ValueError: If a field asks for what kpeft does not do, or names layers that the model lacks.
    """
    FIELDS.check(config)
    train_head = trained_head(layout, config)
    linear = linear_modules(layout, outside_head=train_head)
    targets = config.get("target_modules")
    if targets is None:
        targets = _DEFAULT_TARGETS.get(layout.family.name if layout.family else "", ["query", "value"])
    adapted = [module for module in linear if is_target(module, targets, config)]
    if not adapted:
        raise no_target(layout, targets)
    bias = config.get("bias", "none")
    if bias not in BIAS_MODES:
        raise ValueError(f"adapter_config.json: bias={bias!r} is not one of {', '.join(BIAS_MODES)}.")
    values: dict[str, Any] = {
        "rank": config.get("r", 8),
        "alpha": config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout", 0.0),
        "targets": kpeft_targets(layout, [linear[module] for module in adapted]),
        "use_rslora": config.get("use_rslora", False),
        "bias": bias,
        "init": _start(config.get("init_lora_weights", True)),
        "train_head": train_head,
        **{name: _patterns(config.get(name), adapted, linear) for name in ("rank_pattern", "alpha_pattern")},
    }
    kind: type[LoRA | DoRA | QLoRA] = LoRA
    if config.get("use_dora"):
        kind = DoRA
    if config.get("lora_bias"):
        if kind is DoRA:
            raise ValueError("adapter_config.json: lora_bias=True does not go with use_dora=True.")
        values["lora_bias"] = True
    if QUANTIZATION in config:
        bits = config[QUANTIZATION]
        if kind is DoRA or not isinstance(bits, dict) or set(bits) != set(_QUANTIZATION_FIELDS):
            raise ValueError(f"adapter_config.json: {QUANTIZATION}={bits!r} is not {', '.join(_QUANTIZATION_FIELDS)}.")
        kind, values = QLoRA, values | bits
    check_types(kind, values)
    return kind(**values)


def _start(value: Any) -> str:
    """Returns the start that init_lora_weights names.

    Raises:
        ValueError: If it is none of those that can be made again.
    """
    name = value.lower() if isinstance(value, str) and value.lower() == "olora" else value
    if name not in _STARTS:
        raise ValueError(
            f"adapter_config.json: init_lora_weights={value!r} is not supported: not known, or it changed the base's "
            "weights by what the adapter does not hold. PEFT converts such an adapter: save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    return _STARTS[name]


def _patterns(pattern: Mapping[str, Any] | None, adapted: list[str], linear: Mapping[str, str]) -> dict[str, Any]:
    """Turns PEFT's patterns over module names into ours over structural paths, layer by layer."""
    values = {}
    for module in adapted:
        key = next((key for key in pattern or {} if re.match(rf"(.*\.)?({key})$", module)), None)
        if pattern and key is not None:
            values[re.escape(linear[module])] = pattern[key]
    return values

"""A LoRA adapter in Hugging Face PEFT's format: what adapter_config.json says, both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kpeft.adapters.peft_names import hugging_face_modules
from kpeft.methods import DoRA, LoRA, QLoRA
from kpeft.methods.fields import check_types
from kpeft.methods.low_rank import BIAS_MODES, STARTS, LowRank
from kpeft.sites import Layout
from kpeft.targets import ALL_LINEAR, head_layers, is_linear, resolve

PEFT_TYPE = "LORA"
_VERSION = "0.21.2"  # the release whose format this is

# What a config holds beside the fields that kpeft sets; a file that says otherwise asks for what kpeft does not do.
_UNUSED: dict[str, Any] = {
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
}
# Fields that say how the adapter came about, or only matter together with one above; fan_in_fan_out PEFT itself sets to
# false for every linear layer of an encoder.
_IGNORED: dict[str, Any] = {
    "auto_mapping": None,
    "eva_config": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "loftq_config": {},
    "megatron_core": "megatron.core",
    "peft_version": _VERSION,
    "qalora_group_size": 16,
    "revision": None,
}
_READ = {
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
}
# To PEFT a QLoRA adapter is a LoRA adapter, whose base may have any bits; it warns that it ignores this field.
_QUANTIZATION = "kpeft_quantization"
_QUANTIZATION_FIELDS = ("quantization", "double_quantization", "block_size")
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
    saved = sorted({modules_to_save(module) for module, path in modules.items() if path in head_layers(layout)})
    bits: dict[str, Any] = {}
    if isinstance(method, QLoRA):
        bits[_QUANTIZATION] = {name: getattr(method, name) for name in _QUANTIZATION_FIELDS}
    return {
        **_UNUSED,
        **_IGNORED,
        **bits,
        "alpha_pattern": {m: alphas[p] for m, p in adapted.items() if alphas[p] != method.alpha},
        "base_model_name_or_path": None,
        "bias": method.bias,
        "exclude_modules": None,
        "init_lora_weights": True if method.init == "default" else method.init,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": int(method.alpha) if method.alpha == int(method.alpha) else method.alpha,
        "lora_bias": isinstance(method, LoRA) and method.lora_bias,
        "lora_dropout": method.dropout,
        "modules_to_save": saved if method.train_head and saved else None,
        "peft_type": PEFT_TYPE,
        "r": method.rank,
        "rank_pattern": {m: ranks[p] for m, p in adapted.items() if ranks[p] != method.rank},
        "target_modules": _short_names(set(adapted), set(modules)),
        "task_type": "SEQ_CLS" if method.train_head and saved else None,
        "use_dora": isinstance(method, DoRA),
        "use_rslora": method.use_rslora,
    }


def modules_to_save(module: str) -> str:
    """Returns the Hugging Face module that PEFT saves whole to save a layer of the head."""
    return module.partition(".")[0]


def _short_names(adapted: set[str], modules: set[str]) -> list[str]:
    """Names modules by their last part where that names no other module, else in full."""
    names = set()
    for module in adapted:
        last = module.rpartition(".")[2]
        others = {other for other in modules - adapted if other.rpartition(".")[2] == last}
        names.add(module if others else last)
    return sorted(names)


def lora_method(layout: Layout, config: Mapping[str, Any]) -> LowRank:
    """Returns the LoRA or DoRA method that a PEFT config describes, for a given model; QLoRA where kpeft says so in it.

    Raises:
        ValueError: If a field asks for what kpeft does not do, or names layers that the model lacks.
    """
    for field, usual in _UNUSED.items():
        if field in config and config[field] != usual and config[field]:
            raise ValueError(f"adapter_config.json: {field}={config[field]!r} is not supported.")
    unknown = sorted(set(config) - _READ - set(_UNUSED) - set(_IGNORED) - {_QUANTIZATION})
    unknown = [field for field in unknown if config[field] not in (None, False, [], {})]
    if unknown:
        raise ValueError(
            f"adapter_config.json: {unknown[0]}={config[unknown[0]]!r} is not known to this version of kpeft."
        )
    modules = hugging_face_modules(layout)
    if not modules:
        raise ValueError(
            f"a Hugging Face LoRA adapter needs a KerasHub encoder; model {layout.model.name!r} holds none."
        )
    head = head_layers(layout)
    saved = config.get("modules_to_save") or (["classifier", "score"] if config.get("task_type") == "SEQ_CLS" else [])
    train_head = _trains_head({m for m, path in modules.items() if path in head}, saved)
    linear = {m: p for m, p in modules.items() if is_linear(_base(layout, p)) and not (train_head and p in head)}
    adapted = [module for module in linear if _is_target(module, config, layout, linear)]
    if not adapted:
        raise ValueError(
            f"adapter_config.json: target_modules={config.get('target_modules')!r} match no layer of model "
            f"{layout.model.name!r}, a {layout.family.name if layout.family else 'model of no known family'}."
        )
    bias = config.get("bias", "none")
    if bias not in BIAS_MODES:
        raise ValueError(f"adapter_config.json: bias={bias!r} is not one of {', '.join(BIAS_MODES)}.")
    try:
        patterns = {name: _patterns(config.get(name), adapted, linear) for name in ("rank_pattern", "alpha_pattern")}
    except TypeError as error:
        raise ValueError(f"adapter_config.json holds a field of the wrong type: {error}") from error
    values: dict[str, Any] = {
        "rank": config.get("r", 8),
        "alpha": config.get("lora_alpha", 8),
        "dropout": config.get("lora_dropout", 0.0),
        "targets": _targets(layout, [linear[module] for module in adapted]),
        "use_rslora": bool(config.get("use_rslora", False)),
        "bias": bias,
        "init": _start(config.get("init_lora_weights", True)),
        "train_head": train_head,
        **patterns,
    }
    kind: type[LoRA | DoRA | QLoRA] = LoRA
    if config.get("use_dora"):
        kind = DoRA
    if config.get("lora_bias"):
        if kind is DoRA:
            raise ValueError("adapter_config.json: lora_bias=True does not go with use_dora=True.")
        values["lora_bias"] = True
    if _QUANTIZATION in config:
        bits = config[_QUANTIZATION]
        if kind is DoRA or not isinstance(bits, dict) or set(bits) != set(_QUANTIZATION_FIELDS):
            raise ValueError(f"adapter_config.json: {_QUANTIZATION}={bits!r} is not {', '.join(_QUANTIZATION_FIELDS)}.")
        kind, values = QLoRA, values | bits
    check_types(kind, values)
    return kind(**values)


def _start(value: Any) -> str:
    """Returns the start that init_lora_weights names.

    Raises:
        ValueError: If it is none of those that can be made again.
    """
    name = value.lower() if isinstance(value, str) and value.lower() == "olora" else value
    if not isinstance(name, bool | str | None) or name not in _STARTS:
        raise ValueError(
            f"adapter_config.json: init_lora_weights={value!r} is not supported: it changed the base's weights by what "
            "the adapter does not hold. PEFT converts such an adapter: save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    return _STARTS[name]


def _base(layout: Layout, path: str) -> Any:
    return layout.layers[path]


def _trains_head(head: set[str], saved: list[str]) -> bool:
    """Whether the modules that PEFT saves whole are the head's.

    Raises:
        ValueError: If a saved module is neither in the head nor one that PEFT names in vain (`score`).
    """
    tops = {modules_to_save(module) for module in head}
    for module in saved:
        if module not in tops | {"classifier", "score"}:
            raise ValueError(
                f"adapter_config.json: modules_to_save={module!r} is not in the head; kpeft saves only heads."
            )
    return any(module in tops for module in saved)


def _is_target(module: str, config: Mapping[str, Any], layout: Layout, linear: Mapping[str, str]) -> bool:
    """PEFT's own rule for one module."""
    targets = config.get("target_modules")
    if targets is None:
        targets = _DEFAULT_TARGETS.get(layout.family.name if layout.family else "", ["query", "value"])
    if _matches(module, config.get("exclude_modules") or []):
        return False
    if targets != ALL_LINEAR and not _matches(module, targets):
        return False
    layers = config.get("layers_to_transform")
    if layers is None:
        return True
    pattern = config.get("layers_pattern") or ["layer", "layers", r"[^.]*"]
    names = [pattern] if isinstance(pattern, str) else pattern
    number = next((m for name in names if (m := re.match(rf".*\.{name}\.(\d+)\.", module))), None)
    return number is not None and int(number[1]) in ([layers] if isinstance(layers, int) else layers)


def _matches(module: str, names: str | list[str]) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _targets(layout: Layout, paths: list[str]) -> str | tuple[str, ...]:
    """Says a set of layers as briefly as kpeft can: by names of the family, else path by path."""
    wanted = set(paths)
    if wanted == set(resolve(layout, ALL_LINEAR)):
        return ALL_LINEAR
    terms = layout.family.terms if layout.family else ()
    by_term = {
        term: {p for p in resolve(layout, term) if p in layout.layers} for term in terms if _exists(layout, term)
    }
    chosen = tuple(term for term, members in by_term.items() if members and members <= wanted)
    if chosen and set().union(*(by_term[term] for term in chosen)) == wanted:
        return chosen
    return "|".join(re.escape(path) for path in paths)


def _exists(layout: Layout, term: str) -> bool:
    try:
        return bool(resolve(layout, term))
    except ValueError:
        return False


def _patterns(pattern: Mapping[str, Any] | None, adapted: list[str], linear: Mapping[str, str]) -> dict[str, Any]:
    """Turns PEFT's patterns over module names into ours over structural paths, layer by layer."""
    values = {}
    for module in adapted:
        key = next((key for key in pattern or {} if re.match(rf"(.*\.)?({key})$", module)), None)
        if pattern and key is not None:
            values[re.escape(linear[module])] = pattern[key]
    return values

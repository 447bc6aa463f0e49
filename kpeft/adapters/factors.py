"""A LoRA adapter in Hugging Face PEFT's format as plain arrays, with no model around."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpeft.adapter_files import AdapterFiles
from kpeft.adapters.folder import Tensors, one_line, read_config, read_tensors
from kpeft.adapters.peft_lora import FIELDS, PEFT_TYPE
from kpeft.adapters.peft_modules import is_saved
from kpeft.adapters.peft_names import BASE

Files = tuple[Mapping[str, Any], Tensors]
"""What adapter_config.json and adapter_model.safetensors hold."""

# Starts that change the base's kernels: A and B then are no change of the kernels that other adapters know.
_OF_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Factors:
    """One adapter: W + s·B·A for each of its modules.

    Attributes:
        name: What errors call it.
        config: Its adapter_config.json.
        a: A, (r, in), by module name.
        b: B, (out, r), likewise.
        scaling: s, likewise.
        head: The tensors of the head, by their keys in the file.
    """

    name: str
    config: Mapping[str, Any]
    a: Mapping[str, np.ndarray[Any, Any]]
    b: Mapping[str, np.ndarray[Any, Any]]
    scaling: Mapping[str, float]
    head: Tensors

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(a.shape[0] for a in self.a.values())


def read_factors(adapter: AdapterFiles | Files, number: int) -> Factors:
    """Reads an adapter from its files, or takes it from memory.

    Args:
        adapter: The files, or the config and the tensors that they would hold.
        number: Which of several it is, for errors about one in memory.

    Raises:
        ValueError: If it is damaged or no plain LoRA adapter in PEFT's format.
    """
    if isinstance(adapter, AdapterFiles):
        name = adapter.name
        config, tensors = read_config(adapter.config), read_tensors(adapter.weights)
    else:
        name = f"adapter {number}"
        config = dict(adapter[0])
        tensors = {key: np.asarray(value, "float32") for key, value in adapter[1].items()}
    try:
        _check_plain(config)
        return _factors(name, config, tensors)
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(error)}") from error


def _check_plain(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != PEFT_TYPE:
        raise ValueError(
            f"peft_type is {config.get('peft_type')!r}; only LoRA adapters in Hugging Face PEFT's format can be "
            "combined."
        )
    FIELDS.check(config)
    for field in ("use_dora", "lora_bias"):
        if config.get(field):
            raise ValueError(f"adapters with {field}={config[field]!r} cannot be combined.")
    if config.get("bias", "none") != "none":
        raise ValueError(f"adapters that train biases cannot be combined. Received: bias={config['bias']!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_OF_ANOTHER_BASE):
        raise ValueError(
            f"init_lora_weights={start!r} changed the kernels below the adapter, so it cannot be combined."
        )


def _factors(name: str, config: Mapping[str, Any], tensors: Tensors) -> Factors:
    saved = config.get("modules_to_save") or (["classifier", "score"] if config.get("task_type") == "SEQ_CLS" else [])
    parts: dict[str, dict[str, np.ndarray[Any, Any]]] = {"A": {}, "B": {}}
    head = {}
    for key, value in tensors.items():
        module = key.removeprefix(BASE)
        factor = re.fullmatch(r"(.+)\.lora_([AB])\.weight", module)
        if factor and value.ndim == 2:
            parts[factor[2]][factor[1]] = value
        elif is_saved(module, saved):
            head[key] = value
        else:
            raise ValueError(f"tensor {key} of shape {value.shape} is no factor of LoRA and not of the head.")
    a, b = parts["A"], parts["B"]
    if not a or a.keys() != b.keys() or any(a[module].shape[0] != b[module].shape[1] for module in a):
        raise ValueError("the tensors are no pairs of lora_A (r, in) and lora_B (out, r).")
    return Factors(name, config, a, b, {module: _scaling(config, module, len(a[module])) for module in a}, head)


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's own rule: the first pattern that matches the module's name from any dot on."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alphas = [alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)]
    alpha = float(alphas[0] if alphas else config.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

"""Adapters on disk: save what was trained, load it onto a fresh model, in our format or Hugging Face PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation, adapt
from kpeft.adapters.folder import Tensors, find_folder, read_config, read_tensors, write_folder
from kpeft.adapters.native import PREFIX, native_config, native_method, native_tensors
from kpeft.adapters.peft_lora import PEFT_TYPE, lora_config, lora_method, modules_to_save
from kpeft.adapters.peft_names import BASE, PeftName, from_peft, peft_name, to_peft
from kpeft.layers.lora import LoRALayer
from kpeft.methods import Method
from kpeft.methods.low_rank import LowRank
from kpeft.sites import Layout
from kpeft.targets import head_layers, named_layers

__all__ = ["load_adapter", "save_adapter"]


def save_adapter(adaptation: Adaptation, folder: str | Path) -> None:
    """Writes everything that was trained, the head included.

    LoRA and DoRA on a KerasHub encoder are written in Hugging Face PEFT's format; stock PEFT loads it. Every other
    method, and these on other models, are written under structural paths with a `peft_type` that starts with `KPEFT_`.

    Args:
        adaptation: What to save, merged or not.
        folder: Where to write adapter_config.json and adapter_model.safetensors; made if need be.
    """
    merged = adaptation.merged
    if merged:  # a trained bias may hold a change, too
        adaptation.unmerge()
    try:
        _write(adaptation, Path(folder))
    finally:
        if merged:
            adaptation.merge()


def _write(adaptation: Adaptation, folder: Path) -> None:
    names = _peft_names(adaptation)
    if names is None:
        write_folder(folder, native_config(adaptation), native_tensors(adaptation))
        return
    layout = Layout.of(adaptation.model)
    layers = {path: layer for path, layer in adaptation.adapters.items() if isinstance(layer, LoRALayer)}
    method = adaptation.method
    assert isinstance(method, LowRank)
    config = lora_config(
        layout, method, {p: a.rank for p, a in layers.items()}, {p: a.alpha for p, a in layers.items()}
    )
    variables = adaptation.trained_variables()
    tensors = {names[path].key: to_peft(names[path], ops.convert_to_numpy(v.value)) for path, v in variables.items()}
    write_folder(folder, config, {**tensors, **_head_bias_copies(adaptation, layout, names, tensors)})


def load_adapter(model: Any, folder: str | Path) -> Adaptation:
    """Puts a saved adapter on a fresh model.

    Args:
        model: A model of the architecture and label count that the adapter was trained on, not adapted.
        folder: What `save_adapter` or Hugging Face PEFT wrote; for a PEFT adapter with a name, the folder around it
            will do.

    Returns:
        The adaptation, as after training.

    Raises:
        ValueError: If the files are damaged or do not fit the model, whose weights are then as they were.
    """
    folder = find_folder(folder)
    config, tensors = read_config(folder), read_tensors(folder)
    kind = config["peft_type"]
    method: Method
    try:
        if kind == PEFT_TYPE:
            method = lora_method(Layout.of(model), config)
        elif kind.startswith(PREFIX):
            method = native_method(config)
        else:
            raise ValueError(f"peft_type {kind!r} is not supported; {PEFT_TYPE} is, and what kpeft writes.")
        adaptation = adapt(model, method)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    try:
        _assign(adaptation, tensors if kind != PEFT_TYPE else _from_peft(adaptation, tensors))
    except ValueError as error:
        adaptation.detach()
        raise ValueError(f"{folder}: {error}") from error
    return adaptation


def _assign(adaptation: Adaptation, values: Tensors) -> None:
    variables = adaptation.trained_variables()
    _require_same(set(variables), set(values))
    for path, variable in variables.items():
        if tuple(variable.shape) != values[path].shape:
            raise ValueError(
                f"tensor {path} has shape {values[path].shape}, but the model needs {tuple(variable.shape)}."
            )
    for path, variable in variables.items():
        variable.assign(values[path])


def _require_same(expected: set[str], received: set[str]) -> None:
    missing, surplus = sorted(expected - received), sorted(received - expected)
    if missing:
        raise ValueError(f"the adapter lacks {len(missing)} tensors that the model needs, {missing[0]} first.")
    if surplus:
        raise ValueError(
            f"the adapter holds {len(surplus)} tensors that the model has no place for, {surplus[0]} first."
        )


def _peft_names(adaptation: Adaptation) -> dict[str, PeftName] | None:
    """Returns the PEFT name of each trained variable, or `None` where PEFT's format cannot hold them all."""
    if not isinstance(adaptation.method, LowRank):
        return None
    layers = named_layers(Layout.of(adaptation.model))
    names = {path: peft_name(path, layers, adaptation.adapters) for path in adaptation.trained_variables()}
    found = {path: name for path, name in names.items() if name is not None}
    return found if len(found) == len(names) else None


def _from_peft(adaptation: Adaptation, tensors: Tensors) -> Tensors:
    names = _peft_names(adaptation)
    if names is None:
        raise ValueError("the model has adapted layers that Hugging Face's model has not.")
    copies = _head_bias_copies(adaptation, Layout.of(adaptation.model), names, tensors)
    _require_same({name.key for name in names.values()}, set(tensors) - set(copies))
    variables = adaptation.trained_variables()
    return {path: from_peft(name, tensors[name.key], tuple(variables[path].shape)) for path, name in names.items()}


def _head_bias_copies(adaptation: Adaptation, layout: Layout, names: dict[str, PeftName], tensors: Tensors) -> Tensors:
    """Returns what PEFT writes beside a whole head under bias="all": its biases, trained and original, once more."""
    method = adaptation.method
    if not (isinstance(method, LowRank) and method.bias == "all" and method.train_head):
        return {}
    copies: dict[str, np.ndarray[Any, Any]] = {}
    starts = adaptation.start_values()
    for path in starts:
        layer, _, variable = path.rpartition("/")
        if variable != "bias" or layer not in head_layers(layout):
            continue
        key = names[path].key
        top = modules_to_save(key.removeprefix(BASE))
        rest = key.removeprefix(f"{BASE}{top}.")
        copies[f"{BASE}{top}.modules_to_save.{rest}"] = tensors.get(key, np.zeros(0))
        copies[f"{BASE}{top}.original_module.{rest}"] = starts[path]
    return copies

"""Adapters on disk: save what was trained, load it onto a fresh model, in our format or Hugging Face PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kpeft.adaptation import Adaptation, adapt
from kpeft.adapters.folder import Tensors, find_folder, read_config, read_tensors, write_folder
from kpeft.adapters.heads import head_keys, label_count
from kpeft.adapters.native import PREFIX, native_config, native_method, native_tensors
from kpeft.adapters.peft_adalora import AdaLoRAFormat
from kpeft.adapters.peft_bitfit import BitFitFormat
from kpeft.adapters.peft_format import PeftFormat, require_same
from kpeft.adapters.peft_ia3 import IA3Format
from kpeft.adapters.peft_layernorm import LayerNormFormat
from kpeft.adapters.peft_lora_format import LoRAFormat
from kpeft.adapters.peft_lycoris import LoHaFormat, LoKrFormat
from kpeft.adapters.peft_prompt import PrefixFormat, PromptFormat, PTuningFormat
from kpeft.adapters.peft_vera import VeRAFormat
from kpeft.methods import Method
from kpeft.sites import Layout

__all__ = ["HEAD_CHOICES", "adapter_labels", "adapter_method", "load_adapter", "save_adapter"]

HEAD_CHOICES = ("keep", "drop")

PEFT_FORMATS: tuple[PeftFormat, ...] = (
    BitFitFormat(),
    LoRAFormat(),
    AdaLoRAFormat(),
    IA3Format(),
    LayerNormFormat(),
    VeRAFormat(),
    LoHaFormat(),
    LoKrFormat(),
    PromptFormat(),
    PTuningFormat(),
    PrefixFormat(),
)
"""The formats of Hugging Face PEFT that kpeft reads and writes; of several that would do, the first is taken."""


def save_adapter(adaptation: Adaptation, folder: str | Path) -> None:
    """Writes everything that was trained, the head included.

    A method that Hugging Face PEFT has, on a KerasHub encoder, is written in PEFT's format; stock PEFT loads it. All
    else is written under structural paths with a `peft_type` that starts with `KPEFT_`.

    Args:
        adaptation: What to save, merged or not.
        folder: Where to write adapter_config.json and adapter_model.safetensors; made if need be.
    """
    merged = adaptation.merged
    if merged:  # a trained bias may hold a change, too
        adaptation.unmerge()
    try:
        write_folder(Path(folder), *_files(adaptation))
    finally:
        if merged:
            adaptation.merge()


def _files(adaptation: Adaptation) -> tuple[dict[str, Any], Tensors]:
    """Returns what both files of an adapter hold."""
    peft = next((each for each in PEFT_FORMATS if each.writes(adaptation)), None)
    if peft is None:
        return native_config(adaptation), native_tensors(adaptation)
    return peft.config(adaptation), peft.tensors(adaptation)


def adapter_labels(model: Any, folder: str | Path) -> int | None:
    """Returns for how many labels the head in an adapter's folder is, or `None` where it holds no head.

    Args:
        model: A model of the architecture that the adapter was trained on, with any number of labels.
        folder: As `load_adapter` takes it.
    """
    return label_count(Layout.of(model), read_tensors(find_folder(folder)))


def load_adapter(model: Any, folder: str | Path, *, head: str = "keep") -> Adaptation:
    """Puts a saved adapter on a fresh model.

    Args:
        model: A model of the architecture that the adapter was trained on, not adapted.
        folder: What `save_adapter` or Hugging Face PEFT wrote; for a PEFT adapter with a name, the folder around it
            will do.
        head: `"keep"` takes the adapter's head, if it holds one, which must be for as many labels as the model's.
            `"drop"` leaves the model its own, to go on with another task.

    Returns:
        The adaptation, as after training.

    Raises:
        ValueError: If the files are damaged or do not fit the model, whose weights are then as they were.
    """
    if head not in HEAD_CHOICES:
        raise ValueError(f"head must be one of {', '.join(HEAD_CHOICES)}. Received: head={head!r}")
    folder = find_folder(folder)
    config, tensors = read_config(folder), read_tensors(folder)
    peft = _format(config)
    try:
        adaptation = adapt(model, _method(model, config, tensors))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if head == "drop":
        _, own = _files(adaptation)
        layout = Layout.of(model)
        body = tensors.keys() - head_keys(layout, tensors)
        tensors = {**{key: tensors[key] for key in body}, **{key: own[key] for key in head_keys(layout, own)}}
    try:
        _assign(adaptation, tensors if peft is None else peft.values(adaptation, tensors))
    except ValueError as error:
        adaptation.detach()
        raise ValueError(f"{folder}: {error}") from error
    return adaptation


def adapter_method(model: Any, folder: str | Path) -> Method:
    """Returns the method of a saved adapter, for a given model.

    Raises:
        ValueError: If the files are damaged or do not fit the model.
    """
    folder = find_folder(folder)
    config, tensors = read_config(folder), read_tensors(folder)
    try:
        return _method(model, config, tensors)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _format(config: dict[str, Any]) -> PeftFormat | None:
    return next((each for each in PEFT_FORMATS if each.reads(config)), None)


def _method(model: Any, config: dict[str, Any], tensors: Tensors) -> Method:
    peft = _format(config)
    if peft is not None:
        return peft.method_for(Layout.of(model), config, tensors)
    if config["peft_type"].startswith(PREFIX):
        return native_method(config)
    known = ", ".join(dict.fromkeys(each.peft_type for each in PEFT_FORMATS))
    raise ValueError(f"peft_type {config['peft_type']!r} is not supported; {known} and kpeft's own are.")


def _assign(adaptation: Adaptation, values: Tensors) -> None:
    variables = adaptation.trained_variables()
    require_same(set(variables), set(values))
    for path, variable in variables.items():
        if tuple(variable.shape) != values[path].shape:
            raise ValueError(
                f"tensor {path} has shape {values[path].shape}, but the model needs {tuple(variable.shape)}."
            )
    for path, variable in variables.items():
        variable.assign(values[path])

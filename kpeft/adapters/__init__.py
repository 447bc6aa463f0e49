"""Adapters on disk: save what was trained, load it onto a fresh model, in our format or Hugging Face PEFT's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapter_files import NATIVE, AdapterFiles, find_adapter
from kpeft.adapters.folder import Tensors, one_line, read_config, read_tensors, write_folder
from kpeft.adapters.heads import head_keys, label_count
from kpeft.adapters.native import native_config, native_method, native_tensors
from kpeft.adapters.peft_adalora import AdaLoRAFormat
from kpeft.adapters.peft_bitfit import BitFitFormat
from kpeft.adapters.peft_format import PeftFormat, require_same
from kpeft.adapters.peft_ia3 import IA3Format
from kpeft.adapters.peft_layernorm import LayerNormFormat
from kpeft.adapters.peft_lora_format import LoRAFormat
from kpeft.adapters.peft_lycoris import LoHaFormat, LoKrFormat
from kpeft.adapters.peft_prefix import PrefixFormat
from kpeft.adapters.peft_prompt import PromptFormat, PTuningFormat
from kpeft.adapters.peft_vera import VeRAFormat
from kpeft.methods import Method, Union
from kpeft.placing import adapt
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
    """Returns for how many labels the head of a saved adapter is, or `None` where it holds no head.

    Args:
        model: A model of the architecture that the adapter was trained on, with any number of labels.
        folder: As `load_adapter` takes it.
    """
    return label_count(Layout.of(model), read_tensors(find_adapter(folder).weights))


def load_adapter(model: Any, folder: str | Path, *, head: str = "keep") -> Adaptation:
    """Puts a saved adapter on a fresh model.

    Args:
        model: A model of the architecture that the adapter was trained on, not adapted.
        folder: What `save_adapter` or Hugging Face PEFT wrote: its folder, for an adapter with a name also the folder
            around that; one of its two files, whose names may be NAME.safetensors and NAME.json; or hf://OWNER/NAME,
            which may go on with an @REVISION and a /FOLDER.
        head: `"keep"` takes the adapter's head, if it holds one, which must be for as many labels as the model's.
            `"drop"` leaves the model its own, to go on with another task.

    Returns:
        The adaptation, as after training.

    Raises:
        ValueError: If the files are damaged or do not fit the model, whose weights are then as they were.
    """
    if head not in HEAD_CHOICES:
        raise ValueError(f"head must be one of {', '.join(HEAD_CHOICES)}. Received: head={head!r}")
    files = find_adapter(folder)
    config, tensors = read_config(files.config), read_tensors(files.weights)
    with _about(files):
        method = _method(model, config, tensors)
        given_up = _given_up(model, method)
        adaptation = adapt(model, method)
        try:
            peft = _format(config)
            taken = tensors if head == "keep" else _with_head_of(adaptation, tensors)
            _assign(adaptation, taken if peft is None else peft.values(adaptation, taken))
        except BaseException:  # KeyboardInterrupt, too
            adaptation.detach()
            for variable, value in given_up:
                variable.assign(value)
            raise
    return adaptation


def _given_up(model: Any, method: Method) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Returns the variables of what a method quantises, with copies of their values in host memory."""
    layout = Layout.of(model)
    variables = [variable for path in method.quantizes(layout) for variable in layout.layers[path].weights]
    return [(variable, np.array(ops.convert_to_numpy(variable.value))) for variable in variables]


def adapter_method(model: Any, folder: str | Path) -> Method:
    """Returns the method of a saved adapter, for a given model.

    Args:
        model: As `load_adapter` takes it.
        folder: Likewise.

    Raises:
        ValueError: If the files are damaged or do not fit the model.
    """
    files = find_adapter(folder)
    config, tensors = read_config(files.config), read_tensors(files.weights)
    with _about(files):
        return _method(model, config, tensors)


@contextmanager
def _about(files: AdapterFiles) -> Iterator[None]:
    """Names the adapter in what is wrong with it, in one line whatever a damaged file holds."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{files.name}: {one_line(error)}") from error


def _format(config: dict[str, Any]) -> PeftFormat | None:
    return next((each for each in PEFT_FORMATS if each.reads(config)), None)


def _method(model: Any, config: dict[str, Any], tensors: Tensors) -> Method:
    peft = _format(config)
    if peft is not None:
        method = peft.method_for(Layout.of(model), config, tensors)
    elif config["peft_type"].startswith(NATIVE):
        method = native_method(config)
    else:
        known = ", ".join(dict.fromkeys(each.peft_type for each in PEFT_FORMATS))
        raise ValueError(f"peft_type {config['peft_type']!r} is not supported; {known} and kpeft's own are.")
    _check_sizes(method, tensors)
    return method


_SIZES = ("encoder_layers", "hidden", "rank", "size", "tokens")
"""Fields of methods that say how large their layers are."""


def _check_sizes(method: Method, tensors: Tensors) -> None:
    """Checks that a damaged size asks for no more memory than there is: the file holds a number or more for each."""
    held = sum(value.size for value in tensors.values())
    for part in method.parts if isinstance(method, Union) else (method,):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name in _SIZES and value is not None and value > held:
                raise ValueError(
                    f"{field.name}={value} of method {part.name} does not fit the tensors, {held} numbers in all."
                )


def _with_head_of(adaptation: Adaptation, tensors: Tensors) -> Tensors:
    """Returns an adapter's tensors with the model's own head in place of theirs."""
    layout = Layout.of(adaptation.model)
    _, own = _files(adaptation)
    body = tensors.keys() - head_keys(layout, tensors)
    return {**{key: tensors[key] for key in body}, **{key: own[key] for key in head_keys(layout, own)}}


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

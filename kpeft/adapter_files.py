"""Where an adapter's two files lie: in a folder, under one name beside each other, or on Hugging Face's hub; and
whose adapter it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpeft import hub

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NATIVE = "KPEFT_"
"""What `peft_type` starts with in kpeft's own format; the method's name follows."""
METHOD_NAMES = {
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "LN_TUNING": "layernorm",
    "VERA": "vera",
    "LOHA": "loha",
    "LOKR": "lokr",
    "PROMPT_TUNING": "prompt",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix",
}
"""kpeft's methods by Hugging Face PEFT's `peft_type`."""
QUANTIZATION = "kpeft_quantization"
"""The field of a QLoRA adapter that remembers how its base was quantised; PEFT passes over it."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter's two files.

    Attributes:
        name: What errors call the adapter: its folder, its file or its address.
        config: The JSON file.
        weights: The safetensors file.
    """

    name: str
    config: Path
    weights: Path


def find_adapter(adapter: str | Path) -> AdapterFiles:
    """Finds an adapter's two files, downloading those of hf://; a pickle is neither downloaded nor read.

    Args:
        adapter: A folder with adapter_config.json and adapter_model.safetensors, or around the only such folder, as
            Hugging Face PEFT writes an adapter with a name; one of the two files; a pair NAME.safetensors and
            NAME.json, by either; NAME.safetensors beside adapter_config.json; or hf://OWNER/NAME, which may go on with
            an @REVISION and a /FOLDER.

    Raises:
        ValueError: If there is no adapter, more than one, or the hub does not answer.
    """
    text = str(adapter)
    if text.startswith(hub.SCHEME):
        return _on_hub(text)
    scheme, found, _ = text.partition("://")
    if found:
        raise ValueError(f"unknown scheme {scheme}:// of an adapter; use hf:// or a path. Received: {text!r}")
    path = Path(text).expanduser()
    try:
        if text and path.is_dir():
            return _in_folder(path)
        if path.is_file():
            return _beside(path)
    except OSError as error:  # such as a name that is too long
        raise ValueError(f"adapter folder {text!r} cannot be read: {error.strerror}.") from error
    raise ValueError(
        f"adapter folder {text!r} does not exist; a repository on Hugging Face is written hf://OWNER/NAME."
    )


def method_of_files(adapter: str, *, local: bool) -> str:
    """Returns the name of an adapter's method, or "" where its files do not tell.

    Args:
        adapter: As `find_adapter` takes it.
        local: Download nothing.
    """
    if local and "://" in adapter:
        return ""
    try:
        return method_name(json.loads(find_adapter(adapter).config.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def method_name(config: Mapping[str, Any]) -> str:
    """Returns the name of the method that a configuration describes, those of a union joined by +; "" if unknown."""
    kind = str(config.get("peft_type"))
    if kind.startswith(NATIVE):
        return kind.removeprefix(NATIVE).lower()
    if kind == "LORA" and is_bitfit(config):
        return "bitfit"
    if kind == "LORA" and config.get("use_dora"):
        return "dora"
    if kind == "LORA" and QUANTIZATION in config:
        return "qlora"
    return METHOD_NAMES.get(kind, "")


def is_bitfit(config: Mapping[str, Any]) -> bool:
    """Whether a LoRA adapter's configuration is one of BitFit: all biases are trained, and alpha is 0 throughout."""
    pattern = config.get("alpha_pattern")
    alphas = [config.get("lora_alpha"), *(pattern.values() if isinstance(pattern, Mapping) else ())]
    return config.get("bias") == "all" and not any(alpha != 0 for alpha in alphas)


def _in_folder(folder: Path) -> AdapterFiles:
    if not (folder / CONFIG).is_file():
        named = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
        if not named:
            raise ValueError(f"folder {str(folder)!r} holds no {CONFIG}, nor does a folder in it.")
        if len(named) > 1:
            names = ", ".join(path.name for path in named)
            raise ValueError(f"folder {str(folder)!r} holds several adapters ({names}); name one of their folders.")
        folder = named[0]
    return AdapterFiles(str(folder), folder / CONFIG, folder / WEIGHTS)


def _beside(path: Path) -> AdapterFiles:
    if path.suffix == ".json":
        other = path.with_name(WEIGHTS) if path.name == CONFIG else path.with_suffix(".safetensors")
        return AdapterFiles(str(path), path, other)
    if path.suffix == ".safetensors":
        names = [CONFIG] if path.name == WEIGHTS else [f"{path.stem}.json", CONFIG]
        configs = [path.with_name(name) for name in names if path.with_name(name).is_file()]
        if not configs:
            raise ValueError(f"{str(path)!r} has no {' or '.join(names)} beside it.")
        return AdapterFiles(str(path), configs[0], path)
    hint = "; a pickle can run code when read" if path.suffix in _PICKLES else ""
    raise ValueError(f"an adapter's file ends in .safetensors or .json{hint}. Received: {str(path)!r}")


def _on_hub(address: str) -> AdapterFiles:
    repository = hub.parse(address)
    try:
        folder = hub.download(repository, (CONFIG, WEIGHTS))
    except (OSError, ValueError) as error:  # which all of the client's errors are
        raise ValueError(
            f"adapter {address!r} cannot be downloaded from Hugging Face ({hub.first_line(error)}); without a network "
            "name its folder."
        ) from error
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(
                f"adapter {address!r} holds no {name}; if it lies in a folder, write hf://OWNER/NAME/FOLDER."
            )
    return AdapterFiles(address, folder / CONFIG, folder / WEIGHTS)

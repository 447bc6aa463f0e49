"""An adapter's folder: adapter_config.json beside adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from kpeft.files import replacing, write_bytes

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

Tensors = Mapping[str, np.ndarray[Any, Any]]


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes both files, byte for byte as Hugging Face PEFT lays them out."""
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    write_bytes(folder / WEIGHTS, save(contiguous, metadata={"format": "pt"}))
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(dict(config), indent=2, sort_keys=True), encoding="utf-8")


def find_folder(folder: str | Path) -> Path:
    """Returns the folder that holds the files: this one, or its only subfolder with an adapter, as PEFT names them.

    Raises:
        ValueError: If there is no adapter, or more than one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"adapter folder {str(folder)!r} does not exist.")
    if (folder / CONFIG).is_file():
        return folder
    named = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if not named:
        raise ValueError(f"folder {str(folder)!r} holds no {CONFIG}, nor does a folder in it.")
    if len(named) > 1:
        names = ", ".join(path.name for path in named)
        raise ValueError(f"folder {str(folder)!r} holds several adapters ({names}); name one of their folders.")
    return named[0]


def read_config(folder: Path) -> dict[str, Any]:
    """Reads adapter_config.json.

    Raises:
        ValueError: If it is no JSON object or names no peft_type.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ValueError(f"{path} names no peft_type, so it is no adapter's configuration.")
    return config


def read_tensors(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads adapter_model.safetensors, as float32.

    Raises:
        ValueError: If the file is missing, damaged, or holds a number that is not finite.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        hint = (
            " (adapter_model.bin is a pickle; save it again as safetensors)"
            if path.with_suffix(".bin").is_file()
            else ""
        )
        raise ValueError(f"{path} does not exist{hint}.")
    try:
        tensors = {key: value.astype("float32") for key, value in load_file(path).items()}
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: tensor {key} holds numbers that are not finite.")
    return tensors

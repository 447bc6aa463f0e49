"""What an adapter's two files hold: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from kpeft.adapter_files import CONFIG, WEIGHTS
from kpeft.files import replacing, write_bytes

Tensors = Mapping[str, np.ndarray[Any, Any]]

_FLOATS = ("F64", "F32", "F16", "BF16")


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Tensors) -> None:
    """Writes both files, byte for byte as Hugging Face PEFT lays them out."""
    contiguous = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    write_bytes(folder / WEIGHTS, save(contiguous, metadata={"format": "pt"}))
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(dict(config), indent=2, sort_keys=True), encoding="utf-8")


def one_line(error: Exception) -> str:
    """Returns an error's message in one line that any terminal shows, whatever of a damaged file it quotes."""
    text = " ".join(str(error).split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def read_config(path: Path) -> dict[str, Any]:
    """Reads adapter_config.json.

    Raises:
        ValueError: If it is no JSON object or names no peft_type.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ValueError(f"{path} names no peft_type, so it is no adapter's configuration.")
    return config


def read_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads adapter_model.safetensors, as float32.

    Raises:
        ValueError: If the file is missing or damaged, or holds anything but finite floating-point numbers.
    """
    if not path.is_file():
        pickle = path.with_suffix(".bin")
        hint = f" ({pickle.name} is a pickle; save it again as safetensors)" if pickle.is_file() else ""
        raise ValueError(f"{path} does not exist{hint}.")
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file, np.errstate(over="ignore"):  # which makes an infinity
            for key in file.keys():  # noqa: SIM118  (the file is no mapping)
                kind = file.get_slice(key).get_dtype()
                if kind not in _FLOATS:
                    raise ValueError(f"tensor {key!r} must hold floating-point numbers, not {kind}")
                tensors[key] = np.asarray(file.get_tensor(key)).astype("float32")
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    for key, value in tensors.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: tensor {key!r} holds numbers that are not finite.")
    return tensors

"""A preset's tokenizer as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kpeft.backbones.kerashub import keras_hub_tokenizer
from kpeft.backbones.presets import PresetFiles
from kpeft.backbones.tokenizer_files import VOCABULARY_FILES
from kpeft.backbones.tokenizers import from_keras_hub

_OPTIONS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def hugging_face_files(preset: PresetFiles, family: str) -> dict[str, bytes]:
    """Returns the files of a preset's tokenizer by name, for a Hugging Face folder.

    A Hugging Face folder's are its own; a KerasHub preset's vocabulary is written as Hugging Face lays it out.

    Args:
        preset: Where the preset is.
        family: The model's family.

    Raises:
        ValueError: If the preset has no tokenizer of this family.
    """
    names = VOCABULARY_FILES[family]
    if preset.format == "hugging_face":
        folder = Path(preset.location)
        found = {name: folder / name for name in (*_OPTIONS, *names) if (folder / name).is_file()}
        if "tokenizer.json" not in found and not set(names) <= set(found):
            raise ValueError(f"{folder}: no vocabulary: expected tokenizer.json or {' and '.join(names)}")
        return {name: path.read_bytes() for name, path in found.items()}
    tokenizer = keras_hub_tokenizer(preset.location)
    from_keras_hub(tokenizer, family)  # refuses another family's
    if family in ("albert", "deberta_v3", "xlm_roberta"):
        return {names[0]: bytes(tokenizer.proto)}
    if family == "roberta":
        lines = [line for line in map(str, tokenizer.merges) if "#version:" not in line]
        return {names[0]: _json(dict(tokenizer.vocabulary)), names[1]: _lines(["#version: 0.2", *lines])}
    options = {"do_lower_case": bool(tokenizer.lowercase)}
    return {names[0]: _lines(list(map(str, tokenizer.get_vocabulary()))), "tokenizer_config.json": _json(options)}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _lines(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()

"""A preset's name to where its files are: a hub, a folder on disk, or the packaged encoder."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kpeft import hub
from kpeft.backbones.minilm import minilm_folder

MINILM = "minilm"
WAYS_OUT = "without a network use --offline, --preset FOLDER or --preset minilm"
_EXAMPLES = "a KerasHub preset of a BERT-like encoder such as bert_base_en_uncased or roberta_base_en"

# What a model may need of a repository: no pickles, no other frameworks' weights.
_HUB_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors", "*.weights.h5", "assets/*"]


@dataclass(frozen=True, kw_only=True)
class PresetFiles:
    """Where a preset's files are.

    Args:
        format: Whose files they are.
        location: A folder, or a name or kaggle:// handle that KerasHub downloads.
    """

    format: Literal["keras_hub", "hugging_face"]
    location: str


def resolve(preset: str) -> PresetFiles:
    """Finds a preset's files, downloading those of hf://.

    Args:
        preset: A KerasHub preset name, `kaggle://…`, `hf://…`, a folder in KerasHub's or Hugging Face's format, or
            `minilm`.

    Raises:
        ValueError: If there is no such preset, its format is unknown, or the network does not answer.
    """
    scheme, _, rest = preset.partition("://")
    if preset == MINILM:
        return PresetFiles(format="hugging_face", location=str(minilm_folder()))
    if rest and scheme == "hf":
        folder = _download(preset)
        return PresetFiles(format=_folder_format(folder), location=str(folder))
    if rest and scheme == "kaggle":
        return PresetFiles(format="keras_hub", location=preset)
    if "://" in preset:
        raise ValueError(f"unknown scheme {scheme}:// in a preset; use kaggle:// or hf://. Received: preset={preset!r}")
    names = known_presets()
    if preset in names:
        return PresetFiles(format="keras_hub", location=preset)
    folder = Path(preset).expanduser()
    if folder.is_dir():
        return PresetFiles(format=_folder_format(folder), location=str(folder))
    raise ValueError(_unknown(preset, names))


def known_presets() -> list[str]:
    """Returns the names of KerasHub's presets of the supported families."""
    from kpeft.backbones.classifier import BACKBONES

    return sorted({name for cls in BACKBONES.values() for name in cls.presets})


def _unknown(preset: str, names: list[str]) -> str:
    import keras_hub

    if preset in keras_hub.models.Backbone.presets:
        return f"preset {preset!r} is of an unsupported architecture; use {MINILM}, a folder, or {_EXAMPLES}"
    if "/" in preset or preset.startswith("."):
        return f"there is no folder {preset!r}; a repository on Hugging Face is written hf://ORGANISATION/MODEL"
    nearest = difflib.get_close_matches(preset, [*names, MINILM], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"use {MINILM}, a folder, or {_EXAMPLES}."
    return f"unknown preset, and no folder of that name; {hint} Received: preset={preset!r}"


def _folder_format(folder: Path) -> Literal["keras_hub", "hugging_face"]:
    from kpeft.backbones.huggingface_config import read_json

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: no config.json, so neither a KerasHub preset nor a Hugging Face model")
    config = read_json(folder / "config.json")
    if "registered_name" in config:
        return "keras_hub"
    if "model_type" in config:
        return "hugging_face"
    raise ValueError(f"{folder / 'config.json'}: neither KerasHub's (registered_name) nor Hugging Face's (model_type)")


def _download(preset: str) -> Path:
    with reading(preset, "Hugging Face"):
        repository = hub.parse(preset)
        if repository.folder:
            raise ValueError("a preset lies at the top of its repository")
        return hub.download(repository, _HUB_FILES)


@contextlib.contextmanager
def reading(preset: str, source: str = "Kaggle") -> Iterator[None]:
    """Turns what the hubs' clients and file readers raise into one line, with the ways out if a download was tried.

    Args:
        preset: As the user gave it.
        source: Where it would be downloaded from, were it no folder.

    Raises:
        ValueError: In place of every ValueError and OSError, which all of the clients' errors are.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        local = "://" not in preset and Path(preset).is_dir()
        tried, hint = ("cannot be read", "") if local else (f"cannot be downloaded from {source}", f"; {WAYS_OUT}")
        raise ValueError(f"preset {preset!r} {tried} ({hub.first_line(error)}){hint}") from error

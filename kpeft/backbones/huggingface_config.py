"""A Hugging Face config.json read into the sizes, rates and activation that KerasHub's constructors leave out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpeft.backbones.huggingface_keys import (
    ACTIVATIONS,
    BERT_KEYS,
    DEFAULTS,
    FAMILY_DEFAULTS,
    FIXED,
    FIXED_EVERYWHERE,
    KEYS,
    MODEL_TYPES,
    SAID,
)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What a checkpoint says about its encoder.

    Args:
        family: Our family name.
        vocabulary_size: Rows of the word embeddings.
        num_layers: Transformer layers.
        num_heads: Attention heads.
        hidden_dim: Width.
        intermediate_dim: Width of the feed-forward layers.
        positions: Rows of the position embeddings, RoBERTa's two unused ones included.
        activation: A value of `ACTIVATIONS`.
        dropout: Rate after embeddings, attention and feed-forward.
        attention_dropout: Rate on attention probabilities.
        head_dropout: Rate before the classifier.
        pooler_dropout: Rate before the head's first Dense, where it has one.
        epsilon: LayerNorm's.
        initializer_range: Standard deviation of a new head's kernels.
        embedding_dim: Width of the embeddings (ELECTRA, ALBERT).
        num_segments: Rows of the token-type embeddings.
        num_groups: Groups of shared layers (ALBERT).
        num_inner_repetitions: Layers in each group (ALBERT).
        bucket_size: Relative positions (DeBERTa).
    """

    family: str
    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    positions: int
    activation: str
    dropout: float
    attention_dropout: float
    head_dropout: float
    pooler_dropout: float
    epsilon: float
    initializer_range: float
    embedding_dim: int
    num_segments: int
    num_groups: int
    num_inner_repetitions: int
    bucket_size: int

    @property
    def max_length(self) -> int:
        """Most tokens that a row may have."""
        # RoBERTa counts positions from its padding id on: the first two rows are never read.
        return self.positions - 2 if self.family in ("roberta", "xlm_roberta") else self.positions

    def backbone_options(self) -> dict[str, Any]:
        """Arguments of the family's KerasHub constructor, dropout aside."""
        options: dict[str, Any] = {
            "vocab_size" if self.family == "electra" else "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "max_sequence_length": self.max_length,
        }
        if self.family in ("bert", "electra", "albert"):
            options["num_segments"] = self.num_segments
        if self.family in ("electra", "albert"):
            options["embedding_dim"] = self.embedding_dim
        if self.family == "albert":
            options |= {"num_groups": self.num_groups, "num_inner_repetitions": self.num_inner_repetitions}
        if self.family == "deberta_v3":
            options["bucket_size"] = self.bucket_size
        return options


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: If the file cannot be read or holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object. Received: {type(value).__name__}")
    return value


def read_config(path: Path) -> EncoderConfig:
    """Reads the config.json of a Hugging Face folder.

    Args:
        path: The file.

    Raises:
        ValueError: If the architecture is not supported, or a value is missing or out of range.
    """
    return parse_config(read_json(path), str(path))


def parse_config(raw: dict[str, Any], where: str) -> EncoderConfig:
    """Checks a config.json's content; `where` names it in errors."""
    model_type = raw.get("model_type")
    family = MODEL_TYPES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        supported = ", ".join(MODEL_TYPES)
        raise ValueError(
            f"{where}: unsupported architecture; use one of {supported}. Received: model_type={model_type!r}"
        )
    _check_fixed(raw, family, where)
    keys = _keys(family)
    values: dict[str, Any] = {ours: raw.get(key) for ours, key in keys.items()}
    for ours, default in (DEFAULTS | FAMILY_DEFAULTS.get(family, {})).items():
        if values.get(ours) is None:
            values[ours] = default
    if values["head_dropout"] is None:
        values["head_dropout"] = values["dropout"]
    if values["pooler_dropout"] is None:
        values["pooler_dropout"] = values["head_dropout"]
    values["num_segments"] = values["num_segments"] or 1
    for ours, value in values.items():
        _check_value(ours, value, f"{where}: {keys.get(ours, ours)}")
    if values["hidden_dim"] % values["num_heads"]:
        raise ValueError(
            f"{where}: hidden size {values['hidden_dim']} does not divide into {values['num_heads']} heads"
        )
    return EncoderConfig(family=family, **{**values, "activation": ACTIVATIONS[values["activation"]]})


def to_json(config: EncoderConfig) -> dict[str, Any]:
    """Returns what config.json says of an encoder: `parse_config` reads the same from it."""
    values: dict[str, Any] = {key: getattr(config, ours) for ours, key in _keys(config.family).items()}
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}  # the first of several
    values[_keys(config.family)["activation"]] = names[config.activation]
    model_type = next(theirs for theirs, family in MODEL_TYPES.items() if family == config.family)
    return {"model_type": model_type, **values, **FIXED.get(config.family, {}), **SAID.get(config.family, {})}


def _keys(family: str) -> dict[str, str]:
    return {ours: key for ours, key in (BERT_KEYS | KEYS.get(family, {})).items() if key is not None}


def _check_fixed(raw: dict[str, Any], family: str, where: str) -> None:
    for key, needed in (FIXED_EVERYWHERE | FIXED.get(family, {})).items():
        value = raw.get(key, needed)
        if value != needed and value is not None:
            raise ValueError(f"{where}: {key} must be {needed!r}, no KerasHub backbone follows it. Received: {value!r}")


_RATES = ("dropout", "attention_dropout", "head_dropout", "pooler_dropout")


def _check_value(ours: str, value: Any, where: str) -> None:
    if ours == "activation":
        if value not in ACTIVATIONS:
            raise ValueError(f"{where} must be one of {', '.join(ACTIVATIONS)}. Received: {value!r}")
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if ours in _RATES:
        if not (number and 0 <= value < 1):
            raise ValueError(f"{where} must be a rate from 0 to below 1. Received: {value!r}")
    elif ours in ("epsilon", "initializer_range"):
        if not (number and value > 0):
            raise ValueError(f"{where} must be a positive number. Received: {value!r}")
    elif not (number and isinstance(value, int) and value > 0):
        raise ValueError(f"{where} must be a positive integer. Received: {value!r}")

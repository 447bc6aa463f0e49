"""One call from a preset's name to a classifier that is a plain keras.Model, and to its tokenizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kpeft.backbones.huggingface import classifier_from_folder
from kpeft.backbones.kerashub import classifier_from_preset, tokenizer_from_preset
from kpeft.backbones.presets import PresetFiles, resolve
from kpeft.backbones.tokenizer_files import tokenizer_from_folder
from kpeft.backbones.tokenizers import TextTokenizer
from kpeft.recast import recast

logger = logging.getLogger("kpeft")


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained classifier and what is needed to feed it.

    Args:
        classifier: From {token_ids, padding_mask[, segment_ids]}, int32 (n, length), to logits, float32 (n, classes).
        tokenizer: Text to token ids.
        family: "bert", "roberta", "distilbert", "electra", "albert", "deberta_v3" or "xlm_roberta".
        max_length: Most tokens that the model has positions for.
        preset: As it was asked for.
        head_is_new: Whether the head starts from random numbers.
    """

    classifier: keras.Model
    tokenizer: TextTokenizer
    family: str
    max_length: int
    preset: str
    head_is_new: bool


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    classifier: keras.Model
    family: str
    max_length: int
    vocabulary_size: int
    new: list[str]


def load_backbone(
    preset: str, num_classes: int, *, seed: int = 0, dtype: str | None = None, load_weights: bool = True
) -> Backbone:
    """Loads a preset's classifier and tokenizer.

    Args:
        preset: A KerasHub preset name, `kaggle://…`, `hf://…`, a folder in KerasHub's or Hugging Face's format, or
            `minilm`, the packaged encoder.
        num_classes: Number of logits, 1 for regression.
        seed: Decides new layers and the dropouts' streams; no global generator is read or moved.
        dtype: Name of a Keras dtype policy, "float32" or "mixed_bfloat16". Defaults to Keras's own.
        load_weights: False leaves every weight at its random start.

    Raises:
        ValueError: If there is no such preset, it cannot be read, or it is of no supported family.
    """
    files = resolve(preset)
    loaded = _load(files, preset, num_classes, seed, dtype, load_weights)
    if files.format == "hugging_face":
        tokenizer = tokenizer_from_folder(Path(files.location), loaded.family)
    else:
        tokenizer = tokenizer_from_preset(files.location, loaded.family)
    if tokenizer.vocabulary_size > loaded.vocabulary_size:
        raise ValueError(
            f"preset {preset!r}: the vocabulary does not belong to the weights, which hold {loaded.vocabulary_size} "
            f"word embeddings. Received: {tokenizer.vocabulary_size} tokens"
        )
    return Backbone(
        classifier=loaded.classifier,
        tokenizer=tokenizer,
        family=loaded.family,
        max_length=loaded.max_length,
        preset=preset,
        head_is_new=bool(loaded.new),
    )


def load_classifier(
    preset: str, num_classes: int = 2, *, seed: int = 0, dtype: str | None = None, load_weights: bool = True
) -> keras.Model:
    """Loads a preset's classifier as a plain functional model; arguments and errors are those of `load_backbone`."""
    return _load(resolve(preset), preset, num_classes, seed, dtype, load_weights).classifier


def load_model(path: str | Path) -> keras.Model:
    """Opens a `.keras` file that `Adaptation.save_model` wrote.

    `keras.models.load_model` opens it as well, once kpeft's classes are known to Keras; this makes sure they are.
    """
    import kpeft.backbones.detailed
    import kpeft.layers  # noqa: F401

    return keras.models.load_model(path)


def check_max_length(backbone: Backbone, max_length: int) -> None:
    """Checks that a model has positions for rows of `max_length` tokens.

    Args:
        backbone: The model.
        max_length: Most tokens in a row.

    Raises:
        ValueError: If it has not.
    """
    if max_length > backbone.max_length:
        raise ValueError(
            f"max_length must be at most {backbone.max_length}, the positions of preset {backbone.preset!r}. "
            f"Received: {max_length}"
        )


def check_virtual_tokens(backbone: Backbone, tokens: int) -> None:
    """Checks that virtual tokens leave a model positions for rows.

    Args:
        backbone: The model.
        tokens: How many positions they take up.

    Raises:
        ValueError: If they leave fewer than 8.
    """
    if tokens > backbone.max_length - 8:
        raise ValueError(
            f"tokens must be at most {backbone.max_length - 8}, so that 8 of the {backbone.max_length} positions of "
            f"preset {backbone.preset!r} are left for rows. Received: {tokens}"
        )


def _load(
    files: PresetFiles, preset: str, num_classes: int, seed: int, dtype: str | None, load_weights: bool
) -> _Loaded:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1. Received: num_classes={num_classes}")
    options: dict[str, Any] = {"seed": seed, "dtype": dtype, "load_weights": load_weights}
    if files.format == "hugging_face":
        classifier, config, new = classifier_from_folder(Path(files.location), num_classes, **options)
        family, max_length, vocabulary_size = config.family, config.max_length, config.vocabulary_size
    else:
        classifier, family, backbone, new = classifier_from_preset(files.location, num_classes, **options)
        max_length, vocabulary_size = backbone.max_sequence_length, backbone.token_embedding.input_dim
    recast(classifier)
    if new:
        logger.warning("%s: new, not from the preset: %s (%d labels)", preset, ", ".join(new), num_classes)
    return _Loaded(
        classifier=classifier, family=family, max_length=max_length, vocabulary_size=vocabulary_size, new=new
    )

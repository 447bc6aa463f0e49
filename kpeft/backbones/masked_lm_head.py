"""The masked-LM head that a preset's checkpoint was pretrained with, on the encoder's own word embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub
import numpy as np

from kpeft.backbones.detailed import FUNCTIONS
from kpeft.backbones.huggingface_config import read_config
from kpeft.backbones.huggingface_weights import MODELS, load_layer
from kpeft.backbones.presets import resolve
from kpeft.backbones.safetensors_files import SafetensorsFolder
from kpeft.sites import walk

# Dense, LayerNorm and output bias in Hugging Face's models for masked language modelling; ELECTRA's is its generator.
_BERT = ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias")
_ROBERTA = ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
MODULES: dict[str, tuple[str, str, str]] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm_roberta": _ROBERTA,
    "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    "albert": ("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
    "deberta_v3": _BERT,
}
_DECODERS = (
    "cls.predictions.decoder",
    "lm_head.decoder",
    "vocab_projector",
    "generator_lm_head",
    "predictions.decoder",
)
_ALWAYS_GELU = ("roberta", "xlm_roberta", "electra")


def load_masked_lm_head(preset: str, encoder: Any) -> Any:
    """Loads a preset's masked-LM head, frozen, as a `keras_hub.layers.MaskedLMHead`.

    With x the encoder's output at a masked token and E the word embeddings, which stay the encoder's own, the logits
    over the vocabulary are LayerNorm(activation(x·W + b))·Eᵀ + c.

    Args:
        preset: As `load_backbone` takes it.
        encoder: The preset's encoder, with or without adapters.

    Returns:
        A layer from the encoder's output, (n, length, width), and positions, (n, p), to logits, (n, p, vocabulary).

    Raises:
        ValueError: If the preset has no such head, or one with a table of its own.
    """
    files = resolve(preset)
    if files.format != "hugging_face":
        raise ValueError(
            f"preset {preset!r} has no masked-LM head, as KerasHub's presets have none: take the checkpoint from "
            "Hugging Face, such as hf://google-bert/bert-base-uncased, or leave out --text."
        )
    config, tensors = read_config(Path(files.location) / "config.json"), SafetensorsFolder(Path(files.location))
    dense, layer_norm, bias = MODULES[config.family]
    if f"{dense}.weight" not in tensors.names:
        raise ValueError(
            f"preset {preset!r} has no masked-LM head ({dense}.weight is not in its weights): take a checkpoint that "
            "was saved with one, such as hf://google-bert/bert-base-uncased, or leave out --text."
        )
    # By the end of the path: virtual tokens take the layer out of the one that it stands in otherwise.
    embedding = {path.rpartition("/")[2]: layer for path, layer in walk(encoder)}["token_embedding"]
    head = keras_hub.layers.MaskedLMHead(
        token_embedding=embedding,
        intermediate_activation=FUNCTIONS["gelu" if config.family in _ALWAYS_GELU else config.activation],
        activation=None,
        layer_norm_epsilon=config.epsilon,
        dtype="float32",
        name="masked_lm_head",
    )
    head.build((None, None, config.hidden_dim))
    _check_tied(tensors, preset, config.family, (config.vocabulary_size, embedding.output_dim))
    own = (head._intermediate_dense, head._intermediate_layer_norm)
    load_layer(own[0], dense, tensors)
    load_layer(own[1], layer_norm, tensors)
    head._bias.assign(tensors.read(bias, (config.vocabulary_size,)))
    for variable in (*own[0].variables, *own[1].variables, head._bias):
        variable.trainable = False  # not `head.trainable`: that would freeze the word embeddings, too
    return head


def _check_tied(tensors: SafetensorsFolder, preset: str, family: str, shape: tuple[int, int]) -> None:
    """Checks that the head's table, where a checkpoint has it twice, is that of the word embeddings."""
    table = f"{MODELS.get(family, family)}.embeddings.word_embeddings.weight"
    for name in (f"{decoder}.weight" for decoder in _DECODERS):
        if name in tensors.names and not np.array_equal(tensors.read(name, shape), tensors.read(table, shape)):
            raise ValueError(
                f"preset {preset!r}: its masked-LM head has a table of its own ({name}), and only one that shares the "
                "word embeddings' can be measured; leave out --text."
            )

"""A classifier from a Hugging Face folder, equal to the checkpoint's own in activation, dropouts, epsilon and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.utils.naming import to_snake_case

from kpeft.backbones.classifier import BACKBONES, classifier_from_backbone, private_random
from kpeft.backbones.detailed import DETAILED
from kpeft.backbones.huggingface_config import EncoderConfig, read_config
from kpeft.backbones.huggingface_weights import load_encoder, load_head
from kpeft.backbones.safetensors_files import SafetensorsFolder


def classifier_from_folder(
    folder: Path, num_classes: int, *, seed: int = 0, dtype: str | None = None, load_weights: bool = True
) -> tuple[keras.Model, EncoderConfig, list[str]]:
    """Builds the classifier that a Hugging Face folder describes.

    Args:
        folder: Holds config.json and safetensors weights.
        num_classes: Number of logits; the checkpoint's head is loaded if it has as many.
        seed: Decides new layers and the dropouts' streams.
        dtype: Name of a Keras dtype policy.
        load_weights: False leaves every weight at its random start, and reads no weights.

    Returns:
        The classifier, what config.json says, and the names of the layers that are new.

    Raises:
        ValueError: If the architecture is not supported, or config or weights are missing or damaged.
    """
    config = read_config(folder / "config.json")
    tensors = SafetensorsFolder(folder) if load_weights else None
    backbone = _backbone(config, seed, dtype)
    classifier = classifier_from_backbone(
        backbone, num_classes, seed=seed, dropout=config.head_dropout, pooler_dropout=config.pooler_dropout
    )
    new = ["all layers"]
    if tensors is not None:
        load_encoder(backbone, config.family, tensors)
        new = load_head(classifier, backbone, config.family, tensors)
        _initialize([_layer(classifier, backbone, name) for name in new], config.initializer_range, seed)
    return classifier, config, new


def _backbone(config: EncoderConfig, seed: int, dtype: str | None) -> Any:
    details = {
        "activation": config.activation,
        "epsilon": config.epsilon,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
    }
    name = to_snake_case(BACKBONES[config.family].__name__)
    with private_random(seed):
        return DETAILED[config.family](**config.backbone_options(), details=details, dtype=dtype, name=name)


def _layer(classifier: keras.Model, backbone: Any, name: str) -> Any:
    heads = {layer.name: layer for layer in classifier.layers}
    return heads[name] if name in heads else backbone.get_layer(name)


def _initialize(layers: list[Any], stddev: float, seed: int) -> None:
    """Starts new layers as Hugging Face does: kernels N(0, stddev²), biases 0."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.kernel.assign(rng.normal(0.0, stddev, layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape))

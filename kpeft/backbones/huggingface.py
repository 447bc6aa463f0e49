"""A classifier from a Hugging Face folder, equal to the checkpoint's own in activation, dropouts, epsilon and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras_hub.src.utils.keras_utils import gelu_approximate

from kpeft.backbones.classifier import BACKBONES, classifier_from_backbone, private_random
from kpeft.backbones.huggingface_config import EncoderConfig, read_config
from kpeft.backbones.huggingface_weights import load_encoder, load_head
from kpeft.backbones.safetensors_files import SafetensorsFolder

# All registered with Keras, so that a saved model finds them again.
_ACTIVATIONS = {
    "gelu": keras.activations.gelu,
    "gelu_approximate": gelu_approximate,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
}


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
    # One rate in KerasHub's constructor: the larger, so that every dropout that will be used has its seed generator.
    rate = max(config.dropout, config.attention_dropout)
    with private_random(seed):
        backbone = BACKBONES[config.family](**config.backbone_options(), dropout=rate, dtype=dtype)
    backbone.dropout = config.dropout
    activation = _ACTIVATIONS[config.activation]
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = config.epsilon
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = config.dropout
    for block in _blocks(backbone):
        block.activation = block._feedforward_intermediate_dense.activation = activation
        block.layer_norm_epsilon = config.epsilon
        block.dropout = config.dropout
        attention = block._self_attention_layer
        if config.family == "deberta_v3":
            attention._attn_dropout_layer.rate = config.attention_dropout
        else:
            attention._dropout = attention._dropout_layer.rate = config.attention_dropout
        # Two dropouts that KerasHub's block has and these families do not.
        if config.family == "distilbert":
            block._self_attention_dropout.rate = 0.0
        if config.family == "albert":
            block._feedforward_dropout.rate = 0.0
    return backbone


def _blocks(backbone: Any) -> list[Any]:
    blocks: list[Any] = []
    for item in backbone.transformer_layers:
        blocks.extend(item if isinstance(item, list) else [item])
    return blocks


def _layer(classifier: keras.Model, backbone: Any, name: str) -> Any:
    heads = {layer.name: layer for layer in classifier.layers}
    return heads[name] if name in heads else backbone.get_layer(name)


def _initialize(layers: list[Any], stddev: float, seed: int) -> None:
    """Starts new layers as Hugging Face does: kernels N(0, stddev²), biases 0."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        layer.kernel.assign(rng.normal(0.0, stddev, layer.kernel.shape))
        layer.bias.assign(np.zeros(layer.bias.shape))

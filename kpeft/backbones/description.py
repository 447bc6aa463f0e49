"""What a classifier says of itself: the sizes, rates and activation that a Hugging Face config.json holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras

from kpeft.backbones.classifier import HEADS
from kpeft.backbones.detailed import FUNCTIONS
from kpeft.backbones.huggingface_config import EncoderConfig
from kpeft.backbones.huggingface_weights import EMBEDDINGS
from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.sites import Layout, walk


def describe(model: Any) -> EncoderConfig:
    """Reads a classifier's configuration off its layers, whichever way it was made.

    Args:
        model: A classifier around an encoder of a known family, without adapters.

    Returns:
        The configuration; `initializer_range` is Hugging Face's own, as no model shows it.

    Raises:
        ValueError: If the model is something else, or its layers do not all have one epsilon and one activation.
    """
    layout = Layout.of(model)
    if layout.family is None or not layout.backbone or "logits" not in layout.layers:
        raise ValueError(
            f"model {model.name!r} is no text classifier of a known family, such as kpeft.load_classifier gives."
        )
    if any(isinstance(layer, AdapterLayer) for layer in layout.layers.values()):
        raise ValueError(f"model {model.name!r} has adapters on it: give the adaptation, not its model.")
    if layout.layers["logits"].activation is not keras.activations.linear:
        raise ValueError(f"model {model.name!r} must give logits; its last layer has an activation.")
    family, backbone = layout.family.name, layout.layers[layout.backbone]
    layers = dict(walk(backbone))
    numbers = re.compile(re.escape(layout.family.layer).replace(r"\{L\}", r"(\d+)").replace(r"\{I\}", r"(\d+)"))
    blocks = {match.groups(): layers[path] for path in layers if (match := numbers.fullmatch(path))}
    block = next(iter(blocks.values()))
    attention = block._self_attention_layer
    probabilities = attention._attn_dropout_layer if family == "deberta_v3" else attention._dropout_layer
    heads, head_dim = attention._query_dense.kernel.shape[1:]
    tables = {name: layers[path] for path, name in EMBEDDINGS[family].items()}
    vocabulary_size, embedding_dim = tables["word_embeddings"].embeddings.shape
    rest: dict[str, int] = {"num_segments": 1, "num_groups": 1, "num_inner_repetitions": 1, "bucket_size": 256}
    if "token_type_embeddings" in tables:
        rest["num_segments"] = tables["token_type_embeddings"].embeddings.shape[0]
    if family == "albert":
        groups, inner = ({number[i] for number in blocks} for i in (0, 1))
        rest |= {"num_groups": len(groups), "num_inner_repetitions": len(inner)}
    if family == "deberta_v3":
        rest["bucket_size"] = backbone.bucket_size
    return EncoderConfig(
        family=family,
        vocabulary_size=vocabulary_size,
        num_layers=backbone.num_layers if family == "albert" else len(blocks),
        num_heads=heads,
        hidden_dim=heads * head_dim,
        intermediate_dim=block._feedforward_intermediate_dense.kernel.shape[1],
        positions=_positions(family, backbone, layers),
        activation=_activation(blocks.values()),
        dropout=block.dropout,
        attention_dropout=probabilities.rate,
        head_dropout=model.get_layer(HEADS[family].last_dropout).rate,
        pooler_dropout=model.get_layer(HEADS[family].first_dropout or HEADS[family].last_dropout).rate,
        epsilon=_epsilon(layers.values()),
        initializer_range=0.02,
        embedding_dim=embedding_dim if family in ("electra", "albert") else 128,
        **rest,
    )


def _positions(family: str, backbone: Any, layers: dict[str, Any]) -> int:
    """Rows of the position table, with the two that Hugging Face's RoBERTa has and never reads."""
    if family == "deberta_v3":  # positions are relative
        return int(backbone.max_sequence_length)
    table = next(layer for path, layer in layers.items() if path.rpartition("/")[2] == "position_embedding")
    rows = int(table.position_embeddings.shape[0])
    return rows + 2 if family in ("roberta", "xlm_roberta") else rows


def _activation(blocks: Iterable[Any]) -> str:
    functions = {block._feedforward_intermediate_dense.activation for block in blocks}
    names = [name for name, function in FUNCTIONS.items() if functions == {function}]
    if not names:
        raise ValueError(f"the encoder's activation must be one of {', '.join(FUNCTIONS)}. Received: {functions}")
    return names[0]


def _epsilon(layers: Iterable[Any]) -> float:
    values = {float(layer.epsilon) for layer in layers if isinstance(layer, keras.layers.LayerNormalization)}
    if len(values) > 1:
        raise ValueError(f"the encoder's LayerNorms must have one epsilon. Received: {sorted(values)}")
    return values.pop()

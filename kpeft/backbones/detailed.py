"""KerasHub's backbones with a Hugging Face checkpoint's activation, epsilon and dropouts, which saving keeps.

KerasHub's constructors have no arguments for them: BERT, for one, always gets tanh-GELU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import keras_hub
from keras_hub.src.utils.keras_utils import gelu_approximate

from kpeft.backbones.classifier import BACKBONES
from kpeft.sites import replace_layer

FUNCTIONS = {
    "gelu": keras.activations.gelu,
    "gelu_approximate": gelu_approximate,
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
}


@keras.saving.register_keras_serializable("kpeft")
class PositionAndTypeEmbedding(keras_hub.layers.PositionEmbedding):
    """Position embeddings plus the one token-type row that Hugging Face's RoBERTa adds to every token.

    KerasHub's RoBERTa has no such row. Adding it to the positions once would give the same outputs, but where both are
    trained Adam takes two steps in place of one.
    """

    def build(self, inputs_shape: Any) -> None:
        super().build(inputs_shape)
        self.token_type = self.add_weight(name="token_type", shape=inputs_shape[-1:], initializer="zeros")

    def call(self, inputs: Any, **kwargs: Any) -> Any:
        return super().call(inputs, **kwargs) + self.token_type


class _Detailed:
    """Adds `details` to a KerasHub backbone: `activation`, `epsilon`, `dropout` and `attention_dropout`."""

    def __init__(self, *, details: Mapping[str, Any], **kwargs: Any) -> None:
        # The constructor takes one rate: the larger, so that every dropout that will be used has its seed generator.
        kwargs["dropout"] = max(details["dropout"], details["attention_dropout"])
        super().__init__(**kwargs)
        self.details = dict(details)
        _apply(self, details)
        if isinstance(self, BACKBONES["roberta"]):
            _add_token_type(self)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "details": dict(self.details)}  # type: ignore[misc]


# A class for each family, named after KerasHub's.
DETAILED: dict[str, Any] = {
    family: keras.saving.register_keras_serializable("kpeft")(type(f"Detailed{cls.__name__}", (_Detailed, cls), {}))
    for family, cls in BACKBONES.items()
}


def _apply(backbone: Any, details: Mapping[str, Any]) -> None:
    backbone.dropout = details["dropout"]
    activation = FUNCTIONS[details["activation"]]
    for layer in backbone._flatten_layers():
        if isinstance(layer, keras.layers.LayerNormalization):
            layer.epsilon = details["epsilon"]
        elif isinstance(layer, keras.layers.Dropout):
            layer.rate = details["dropout"]
    for block in _blocks(backbone):
        block.activation = block._feedforward_intermediate_dense.activation = activation
        block.layer_norm_epsilon = details["epsilon"]
        block.dropout = details["dropout"]
        attention = block._self_attention_layer
        if isinstance(backbone, BACKBONES["deberta_v3"]):
            attention._attn_dropout_layer.rate = details["attention_dropout"]
        else:
            attention._dropout = attention._dropout_layer.rate = details["attention_dropout"]
        # Two dropouts that KerasHub's block has and these families do not.
        if isinstance(backbone, BACKBONES["distilbert"]):
            block._self_attention_dropout.rate = 0.0
        if isinstance(backbone, BACKBONES["albert"]):
            block._feedforward_dropout.rate = 0.0


def _add_token_type(backbone: Any) -> None:
    old = backbone.embeddings.position_embedding
    new = PositionAndTypeEmbedding.from_config(old.get_config())
    with keras.name_scope(backbone.embeddings.name):
        new.build((None, None, backbone.hidden_dim))
    replace_layer(backbone, old, new)


def _blocks(backbone: Any) -> list[Any]:
    blocks: list[Any] = []
    for item in backbone.transformer_layers:
        blocks.extend(item if isinstance(item, list) else [item])
    return blocks

"""Prefixes of keys and values in Hugging Face PEFT's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import Fields
from kpeft.adapters.peft_virtual_tokens import EMBEDDINGS, INITIAL, MADE, READ, REFUSED, VirtualTokens, heads
from kpeft.layers.prefix import PrefixAttention
from kpeft.methods import Method, Prefix
from kpeft.methods.fields import check_types
from kpeft.sites import Layout


class PrefixFormat(VirtualTokens):
    """`PREFIX_TUNING`: keys and values of all layers, (n, 2·layers·d); without the projection's variables, unprojected.

    PEFT has it for models that take past keys and values: BERT, RoBERTa, XLM-RoBERTa and ELECTRA.
    """

    peft_type = "PREFIX_TUNING"
    methods = (Prefix,)
    fields = Fields(
        read={**READ, "num_attention_heads": int | None, "num_layers": int | None},
        refused=REFUSED,
        passed_over={"encoder_hidden_size": MADE, "init_weights": INITIAL, "prefix_projection": MADE},
    )
    widths = ("num_layers", "token_dim")
    parts = 2  # a key and a value
    families = ("bert", "roberta", "xlm_roberta", "electra")

    def writes(self, adaptation: Adaptation) -> bool:
        method, family = adaptation.method, Layout.of(adaptation.model).family
        if not isinstance(method, Prefix) or method.gated or family is None:
            return False
        return family.name in self.families and super().writes(adaptation)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, Prefix)
        base = next(iter(_prefixes(adaptation).values())).base
        width = base.num_heads * base.key_dim
        return {
            **self._common(adaptation, method.tokens, width),
            "encoder_hidden_size": method.hidden or width,
            "init_weights": None,
            "prefix_projection": method.projection,
        }

    def check_sizes(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> None:
        super().check_sizes(layout, config, tensors)
        said, own = config.get("num_attention_heads"), heads(layout)
        if said not in (None, own):
            raise ValueError(f"adapter_config.json: num_attention_heads={said}, but the model has {own}.")

    def plain(self, values: dict[str, Any]) -> Method:
        return Prefix(**values)

    def with_network(self, values: dict[str, Any], config: Mapping[str, Any]) -> Method:
        values = {**values, "projection": True, "hidden": config.get("encoder_hidden_size")}
        check_types(Prefix, values)
        return Prefix(**values)

    def embeddings(self, adaptation: Adaptation) -> np.ndarray[Any, Any]:
        layers = [ops.convert_to_tensor(layer.prefix()) for layer in _prefixes(adaptation).values()]
        return np.concatenate([ops.convert_to_numpy(each).reshape(len(each), -1) for each in layers], axis=1)

    def from_embeddings(self, adaptation: Adaptation, embeddings: np.ndarray[Any, Any]) -> Tensors:
        layers = _prefixes(adaptation)
        shapes = [tuple(layer.own_prefix.shape) for layer in layers.values()]
        expected = (shapes[0][0], sum(int(np.prod(shape[1:])) for shape in shapes))
        if embeddings.shape != expected:
            raise ValueError(f"tensor {EMBEDDINGS} has shape {embeddings.shape}, but the model needs {expected}.")
        parts = np.split(embeddings, len(layers), axis=1)
        return {f"{path}/prefix": part.reshape(s) for path, part, s in zip(layers, parts, shapes, strict=True)}


def _prefixes(adaptation: Adaptation) -> dict[str, PrefixAttention]:
    return {path: layer for path, layer in adaptation.adapters.items() if isinstance(layer, PrefixAttention)}

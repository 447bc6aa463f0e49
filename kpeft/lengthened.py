"""A second model around the layers of a first, whose sequence holds virtual tokens; the first stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kpeft.graphs import calls_forgotten, inputs_like, is_graph, is_slice, run_graph
from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.prompt import PromptEmbedding, ShiftedPositions, is_position_embedding
from kpeft.sites import Layout, backbone_name, build_in_place, walk

Embed = Callable[[Any], PromptEmbedding]
"""Makes the layer that puts virtual tokens among the embeddings of another: (token embedding) -> layer."""


def lengthen(layout: Layout, embed: Embed, *, pool_first: bool) -> tuple[keras.Model, dict[str, AdapterLayer]]:
    """Makes a classifier with virtual tokens among the word embeddings.

    It shares the encoder's layers with `layout.model`. The head's are copies, so that training them leaves that model's
    outputs as they are. The masks, positions and segments (0 at virtual tokens) are as long as the sequence. What
    leaves the encoder is as long as the rows again: the real tokens, but for the first, which is the one that the head
    reads.

    Args:
        layout: A Functional classifier with a KerasHub encoder of a known family in its graph.
        embed: Makes the prompt.
        pool_first: Let the head read the first token of the longer sequence, not the first real one.

    Returns:
        The new model, and its adapter layers by structural path.

    Raises:
        ValueError: If the model is not of that kind.
    """
    model, encoder = layout.model, layout.layers.get(layout.backbone)
    if layout.family is None or encoder is None or encoder not in getattr(model, "operations", []):
        raise ValueError(
            f"virtual tokens need a Functional classifier around a KerasHub encoder; model {model.name!r} is none."
        )
    if not is_graph(encoder) or not isinstance(model.input, dict) or not isinstance(encoder.input, dict):
        raise ValueError(
            f"virtual tokens need a model of named inputs, token_ids and padding_mask; {model.name!r} is none."
        )
    with calls_forgotten(model, after_errors_only=True):
        return _lengthen(model, encoder, _Encoder(encoder, backbone_name(layout.family), embed, pool_first))


def _lengthen(model: Any, encoder: Any, longer: _Encoder) -> tuple[keras.Model, dict[str, AdapterLayer]]:
    inputs = inputs_like(model.input)
    copies: dict[int, Any] = {}

    def call(operation: Any, args: Any, kwargs: Any) -> Any:
        if operation is encoder:
            return longer.model(*args, **kwargs)
        if not isinstance(operation, keras.layers.Layer) or not operation.weights:
            return operation(*args, **kwargs)
        copy = copies.setdefault(id(operation), type(operation).from_config(operation.get_config()))
        outputs = copy(*args, **kwargs)
        copy.set_weights(operation.get_weights())
        return outputs

    outputs = run_graph(model, keras.tree.flatten(inputs), call)
    made = keras.Model(inputs, outputs, name=model.name)
    return made, {path: layer for path, layer in walk(made) if layer in longer.adapters}


class _Encoder:
    """An encoder's graph with virtual tokens in it.

    Attributes:
        model: The new encoder.
        adapters: Its adapter layers.
    """

    def __init__(self, encoder: Any, name: str, embed: Embed, pool_first: bool) -> None:
        self.adapters: list[AdapterLayer] = []
        self._embed = embed
        self._pool_first = pool_first
        self._inputs = inputs_like(encoder.input)
        self._longer: dict[int, Any] = {}  # input of the encoder -> the same, lengthened
        outputs = run_graph(encoder, keras.tree.flatten(self._inputs), self._call)
        outputs = keras.tree.map_structure(self._shortened, outputs)
        if self._prompt.index and len(self.adapters) == 1:
            raise ValueError(
                f"virtual tokens inside the sequence would set [CLS] apart where positions are relative, as in {name}: "
                "place them in front."
            )
        self.model = keras.Model(self._inputs, outputs, name=name)

    def _call(self, operation: Any, args: Any, kwargs: Any) -> Any:
        from keras_hub.layers import TokenAndPositionEmbedding

        if any(arg is self._inputs["token_ids"] for arg in args):
            together = isinstance(operation, TokenAndPositionEmbedding)
            embedded = self._embedded(operation.token_embedding if together else operation)
            return embedded + self._positions(operation.position_embedding)(embedded) if together else embedded
        if is_position_embedding(operation):
            return self._positions(operation)(*args)
        if is_slice(operation):
            return operation(self._shortened(args[0]), *args[1:], **kwargs)
        args, kwargs = keras.tree.map_structure(lambda value: self._longer.get(id(value), value), (args, kwargs))
        return operation(*args, **kwargs)

    def _embedded(self, embedding: Any) -> Any:
        self._prompt = self._embed(embedding)
        build_in_place(self._prompt, embedding)
        self.adapters.append(self._prompt)
        mask = self._inputs["padding_mask"]
        embedded, self._mask = self._prompt(self._inputs["token_ids"], mask)
        self._longer[id(mask)] = self._mask
        if "segment_ids" in self._inputs:
            segments, k = self._inputs["segment_ids"], self._prompt.index
            first = ops.pad(segments[:, :k], [[0, 0], [0, self._prompt.tokens]])
            self._longer[id(segments)] = ops.concatenate([first, segments[:, k:]], axis=1)
        return embedded

    def _positions(self, embedding: Any) -> ShiftedPositions:
        prompt = self._prompt
        layer = ShiftedPositions(
            embedding, tokens=prompt.tokens, leading=prompt.index + prompt.tokens, name=embedding.name
        )
        build_in_place(layer, embedding)
        self.adapters.append(layer)
        return layer

    def _shortened(self, x: Any) -> Any:
        """Returns a sequence without its virtual tokens, but for the first where the head reads that; else `x`."""
        if len(x.shape) != 3 or x.shape[1] is not None:
            return x
        n = self._prompt.tokens
        if self._prompt.index:
            first = x[:, :1]
        elif self._pool_first:  # the mask says whether the prompt is on
            first = ops.where(ops.expand_dims(self._mask[:, :1] > 0, -1), x[:, :1], x[:, n : n + 1])
        else:
            return x[:, n:]
        return ops.concatenate([first, x[:, n + 1 :]], axis=1)

"""A model's own layers with the arithmetic of `kpeft.ops`, as long as it is loaded or while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from kpeft.layers.fast import FAST_LAYERS, FastAttentionDropout, FastDropout, FastLayer
from kpeft.sites import walk

# Of a layer of this class, the dropout of this name drops attention's probabilities.
_ATTENTION_DROPOUT = ("DisentangledSelfAttention", "_attn_dropout_layer")

_FAST = {next(c for c in fast.__mro__ if not issubclass(c, FastLayer)): fast for fast in FAST_LAYERS}


def recast(model: Any) -> None:
    """Lets the layers inside `model` compute with `kpeft.ops`: each becomes the fast class of its own class.

    A fast class adds no state, so a layer keeps its variables, names and paths. Those that stand in a Functional graph
    stay as they are: they are written into saved files, which are to open without kpeft.
    """
    layers = [layer for _, layer in walk(model)]
    models = [model, *(layer for layer in layers if isinstance(layer, keras.Model))]
    in_graph = {id(child) for each in models for child in each.layers}
    for layer in layers:
        if type(layer) in _FAST and id(layer) not in in_graph:
            layer.__class__ = _FAST[type(layer)]
    for layer in layers:
        if type(layer).__name__ == _ATTENTION_DROPOUT[0]:
            getattr(layer, _ATTENTION_DROPOUT[1]).__class__ = FastAttentionDropout


@contextmanager
def fast_dropout(model: Any) -> Iterator[None]:
    """Within the context the dropouts that `recast` left to Keras use `kpeft.ops`, too: those of Functional graphs.

    What is compiled within it stays as it is. Training draws all masks there, so that none depends on padding.
    """
    layers = [layer for _, layer in walk(model) if type(layer) is keras.layers.Dropout]
    for layer in layers:
        layer.__class__ = FastDropout
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = keras.layers.Dropout

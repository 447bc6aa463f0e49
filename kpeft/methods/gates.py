"""What gated methods have in common: the blocks whose padding mask their gates follow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kpeft.methods.method import Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout

GATED = "scale the change of each row by a gate that reads the layer's input, as UniPELT does"


def with_masks(layout: Layout, wraps: Mapping[str, Wrap]) -> Mapping[str, Wrap]:
    """Returns wraps of gated layers, and after them those of the blocks around: what takes a `padding_mask`.

    Raises:
        ValueError: If a layer reads something else than a row's positions, too.
    """
    from kpeft.targets import named_layers

    if layout.family is not None and layout.family.name == "deberta_v3":
        for path, layer in named_layers(layout).items():
            if path in wraps and layer.place.term in ("query", "key"):
                raise ValueError(
                    f"layer {path} cannot be gated: DeBERTa's query and key read the table of relative positions, too, "
                    "which is no row's. Take other targets, such as value,attention_output."
                )
    around = {path[:end] for path in wraps for end, letter in enumerate(path) if letter == "/"}
    masked = [path for path in layout.layers if path in around and _takes_mask(layout.layers[path])]
    return {**wraps, **dict.fromkeys(masked, wrap_masked)}


def wrap_masked(layer: Any, seed: int) -> AdapterLayer:
    """Wraps a block so that the gates inside know its mask; one wrap serves all parts of a union."""
    from kpeft.layers.gate import MaskedBlock

    return MaskedBlock(layer, name=layer.name)


def _takes_mask(layer: Any) -> bool:
    return "padding_mask" in inspect.signature(layer.call).parameters

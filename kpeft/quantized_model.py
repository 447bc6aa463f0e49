"""Quantised layers in the place of a model's own, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, final

from kpeft.layers.quantized import QuantizedLayer
from kpeft.methods.method import Quantize
from kpeft.sites import Layout, build_in_place, release, replace_layer


@final
class QuantizedLayers:
    """The layers of one model that are quantised; made in memory, and put into the model by `place`.

    Args:
        layers: (float layer, quantised layer) by structural path. The float layers stay the same objects throughout, so
            that what refers to them holds; they have no values while they are out of the model.
    """

    def __init__(self, layers: Mapping[str, tuple[Any, QuantizedLayer]]) -> None:
        self._layers = dict(layers)

    @classmethod
    def make(cls, layout: Layout, quantizes: Mapping[str, Quantize]) -> Self:
        """Makes the quantised layers with their weights; the model is left as it is."""
        layers = {}
        for path, quantize in quantizes.items():
            layer = layout.layers[path]
            quantized = quantize(layer)
            build_in_place(quantized, layer)
            quantized.take_weights(layer)
            layers[path] = (layer, quantized)
        return cls(layers)

    def at(self, path: str, layer: Any) -> Any:
        """Returns the quantised layer at a path; `layer` if there is none."""
        return self._layers[path][1] if path in self._layers else layer

    def place(self, model: Any) -> None:
        """Puts the quantised layers into the model and gives up the memory of the float ones."""
        for layer, quantized in self._layers.values():
            quantized.take_others(layer)
            replace_layer(model, layer, quantized)
            release(layer)

    def restore(self, model: Any) -> None:
        """Puts the float layers back, with dequantised weights and what the other variables are by now."""
        for layer, quantized in self._layers.values():
            quantized.give_weights(layer)
            replace_layer(model, quantized, layer)

    def __len__(self) -> int:
        return len(self._layers)

    def hidden_parameters(self) -> int:
        """Returns how many parameters the quantised weights have, less the number of scalars that store them."""
        return sum(quantized.hidden_parameters() for _, quantized in self._layers.values())

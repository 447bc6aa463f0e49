"""Keras layers that methods place, for any Keras project."""

from kpeft.layers.adapter_layer import AdapterLayer, MergeableAdapter
from kpeft.layers.fast import FastDropout
from kpeft.layers.lora import LoRADense, LoRAEinsumDense
from kpeft.layers.quantized import (
    QuantizedDense,
    QuantizedEinsumDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)

__all__ = [
    "AdapterLayer",
    "FastDropout",
    "LoRADense",
    "LoRAEinsumDense",
    "MergeableAdapter",
    "QuantizedDense",
    "QuantizedEinsumDense",
    "QuantizedEmbedding",
    "QuantizedReversibleEmbedding",
]

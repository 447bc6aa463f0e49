"""Keras layers that methods place, for any Keras project."""

from kpeft.layers.adalora import AdaLoRADense, AdaLoRAEinsumDense
from kpeft.layers.adapter_layer import AdapterLayer, MergeableAdapter
from kpeft.layers.bottleneck import ParallelDown, ParallelUp, SequentialBottleneck
from kpeft.layers.compacter import CompacterBottleneck, HypercomplexRule
from kpeft.layers.dora import DoRADense, DoRAEinsumDense
from kpeft.layers.fast import FastDropout
from kpeft.layers.gate import InputGate, MaskedBlock
from kpeft.layers.gated_lora import GatedLoRA
from kpeft.layers.ia3 import IA3Linear
from kpeft.layers.loha import LoHaLinear
from kpeft.layers.lokr import LoKrLinear
from kpeft.layers.lora import LoRADense, LoRAEinsumDense
from kpeft.layers.p_tuning import EncodedPrompt
from kpeft.layers.prefix import PrefixAttention, PrefixProjection
from kpeft.layers.prompt import PromptEmbedding, ShiftedPositions
from kpeft.layers.quantized import (
    QuantizedDense,
    QuantizedEinsumDense,
    QuantizedEmbedding,
    QuantizedReversibleEmbedding,
)
from kpeft.layers.vera import VeRALinear, VeRAProjection

__all__ = [
    "AdaLoRADense",
    "AdaLoRAEinsumDense",
    "AdapterLayer",
    "CompacterBottleneck",
    "DoRADense",
    "DoRAEinsumDense",
    "EncodedPrompt",
    "FastDropout",
    "GatedLoRA",
    "HypercomplexRule",
    "IA3Linear",
    "InputGate",
    "LoHaLinear",
    "LoKrLinear",
    "LoRADense",
    "LoRAEinsumDense",
    "MaskedBlock",
    "MergeableAdapter",
    "ParallelDown",
    "ParallelUp",
    "PrefixAttention",
    "PrefixProjection",
    "PromptEmbedding",
    "QuantizedDense",
    "QuantizedEinsumDense",
    "QuantizedEmbedding",
    "QuantizedReversibleEmbedding",
    "SequentialBottleneck",
    "ShiftedPositions",
    "VeRALinear",
    "VeRAProjection",
]

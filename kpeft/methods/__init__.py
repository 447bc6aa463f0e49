"""The table of methods; none of them imports Keras before it is used."""

from __future__ import annotations

from kpeft.methods.bitfit import BitFit
from kpeft.methods.bottleneck import Bottleneck
from kpeft.methods.ia3 import IA3
from kpeft.methods.lora import LoRA
from kpeft.methods.method import Method
from kpeft.methods.selective import Freeze, Full, HeadOnly, LayerNorm
from kpeft.methods.vera import VeRA

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "head": HeadOnly,
    "bitfit": BitFit,
    "layernorm": LayerNorm,
    "freeze": Freeze,
    "lora": LoRA,
    "ia3": IA3,
    "vera": VeRA,
    "bottleneck": Bottleneck,
}

__all__ = [
    "IA3",
    "METHODS",
    "BitFit",
    "Bottleneck",
    "Freeze",
    "Full",
    "HeadOnly",
    "LayerNorm",
    "LoRA",
    "Method",
    "VeRA",
]

"""The table of methods; none of them imports Keras before it is used."""

from __future__ import annotations

from kpeft.methods.bitfit import BitFit
from kpeft.methods.lora import LoRA
from kpeft.methods.method import Method
from kpeft.methods.qlora import QLoRA
from kpeft.methods.selective import Freeze, Full, HeadOnly, LayerNorm

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "head": HeadOnly,
    "bitfit": BitFit,
    "layernorm": LayerNorm,
    "freeze": Freeze,
    "lora": LoRA,
    "qlora": QLoRA,
}

__all__ = ["METHODS", "BitFit", "Freeze", "Full", "HeadOnly", "LayerNorm", "LoRA", "Method", "QLoRA"]

"""The table of methods; none of them imports Keras before it is used."""

from __future__ import annotations

from kpeft.methods.adalora import AdaLoRA
from kpeft.methods.bitfit import BitFit
from kpeft.methods.bottleneck import Bottleneck
from kpeft.methods.compacter import Compacter
from kpeft.methods.dora import DoRA
from kpeft.methods.ia3 import IA3
from kpeft.methods.loha import LoHa
from kpeft.methods.lokr import LoKr
from kpeft.methods.lora import LoRA
from kpeft.methods.method import Method, RankBudget, Rate
from kpeft.methods.p_tuning import PTuning
from kpeft.methods.prefix import Prefix
from kpeft.methods.prompt import Prompt
from kpeft.methods.qlora import QLoRA
from kpeft.methods.selective import Freeze, Full, HeadOnly, LayerNorm
from kpeft.methods.union import Union
from kpeft.methods.vera import VeRA

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "head": HeadOnly,
    "bitfit": BitFit,
    "layernorm": LayerNorm,
    "freeze": Freeze,
    "lora": LoRA,
    "dora": DoRA,
    "qlora": QLoRA,
    "adalora": AdaLoRA,
    "ia3": IA3,
    "vera": VeRA,
    "loha": LoHa,
    "lokr": LoKr,
    "prompt": Prompt,
    "p-tuning": PTuning,
    "prefix": Prefix,
    "bottleneck": Bottleneck,
    "compacter": Compacter,
}

__all__ = [
    "IA3",
    "METHODS",
    "AdaLoRA",
    "BitFit",
    "Bottleneck",
    "Compacter",
    "DoRA",
    "Freeze",
    "Full",
    "HeadOnly",
    "LayerNorm",
    "LoHa",
    "LoKr",
    "LoRA",
    "Method",
    "PTuning",
    "Prefix",
    "Prompt",
    "QLoRA",
    "RankBudget",
    "Rate",
    "Union",
    "VeRA",
]

"""LoRA: low-rank changes of chosen linear layers (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.gates import GATED, with_masks
from kpeft.methods.low_rank import LowRank
from kpeft.methods.method import Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout


@final
@dataclass(frozen=True, kw_only=True)
class LoRA(LowRank):
    """LoRA; its options are those of `LowRank`, and two more.

    Attributes:
        lora_bias: Add s·c to each target's outputs, with a trained vector c.
        gated: Scale each row's change by a gate that reads the target's input, see `kpeft.layers.GatedLoRA`; one part
            of UniPELT (Mao et al., 2022, https://arxiv.org/abs/2110.07577). It can then not be merged.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank changes of linear layers"

    lora_bias: bool = field(default=False, metadata={"help": "a trained bias beside the change"})
    gated: bool = field(default=False, metadata={"help": GATED})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_bias and self.init != "default":
            raise ValueError(f"lora_bias goes with init=default only, as in PEFT. Received: init={self.init!r}")
        if self.gated and self.init in ("pissa", "olora"):
            raise ValueError(f"init={self.init!r} needs the whole change, which gated scales: take another start.")

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        wraps = super().wraps(layout)
        return with_masks(layout, wraps) if self.gated else wraps

    def adapter(self, layer: Any, **options: Any) -> AdapterLayer:
        import keras

        from kpeft.layers.gated_lora import GatedLoRA
        from kpeft.layers.lora import LoRADense, LoRAEinsumDense

        if self.gated:
            return GatedLoRA(layer, lora_bias=self.lora_bias, **options)
        kind = LoRADense if isinstance(layer, keras.layers.Dense) else LoRAEinsumDense
        return kind(layer, lora_bias=self.lora_bias, **options)

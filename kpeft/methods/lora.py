"""LoRA: low-rank changes of chosen linear layers (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.low_rank import LowRank

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer


@final
@dataclass(frozen=True, kw_only=True)
class LoRA(LowRank):
    """LoRA; its options are those of `LowRank`, and one more.

    Attributes:
        lora_bias: Add s·c to each target's outputs, with a trained vector c.
    """

    name: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank changes of linear layers"

    lora_bias: bool = field(default=False, metadata={"help": "a trained bias beside the change"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_bias and self.init != "default":
            raise ValueError(f"lora_bias goes with init=default only, as in PEFT. Received: init={self.init!r}")

    def adapter(self, layer: Any, **options: Any) -> AdapterLayer:
        import keras

        from kpeft.layers.lora import LoRADense, LoRAEinsumDense

        kind = LoRADense if isinstance(layer, keras.layers.Dense) else LoRAEinsumDense
        return kind(layer, lora_bias=self.lora_bias, **options)

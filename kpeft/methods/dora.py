"""DoRA: low-rank changes of direction and trained magnitudes (Liu et al., 2024, https://arxiv.org/abs/2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.low_rank import LowRank

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer


@final
@dataclass(frozen=True, kw_only=True)
class DoRA(LowRank):
    """LoRA whose changed kernels keep norms of their own, one for each output; its options are those of `LowRank`.

    With dropout, each training step takes a second product with every adapted kernel, as in Hugging Face PEFT.
    """

    name: ClassVar[str] = "dora"
    summary: ClassVar[str] = "low-rank changes of direction, magnitudes apart"

    def adapter(self, layer: Any, **options: Any) -> AdapterLayer:
        import keras

        from kpeft.layers.dora import DoRADense, DoRAEinsumDense

        kind = DoRADense if isinstance(layer, keras.layers.Dense) else DoRAEinsumDense
        return kind(layer, **options)

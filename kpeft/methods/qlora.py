"""QLoRA: LoRA on a frozen model in 4 or 8 bits (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.low_rank import LowRank
from kpeft.methods.method import Quantize

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.layers.quantized import QuantizedLayer
    from kpeft.sites import Layout


@final
@dataclass(frozen=True, kw_only=True)
class QLoRA(LowRank):
    """LoRA on a quantised model: every linear layer outside the head and every table of embeddings has few bits.

    The float32 kernels and tables are given up. `disabled` therefore gives the quantised model's outputs, and `detach`
    leaves the weights that those had, in float32. `merge` makes the model float32, too, and adds what was learned;
    `unmerge` puts the quantised layers back.

    Biases, LayerNorms, the head and what has no quantised form (`kpeft.layers.quantized.quantized_class`) stay float32.

    Attributes:
        quantization: Of linear layers: `"int8"` (a scale for each output), `"int4"` or `"nf4"` (a scale for each
            block). Embeddings are int8 with a scale for each row, whatever it says.
        double_quantization: Keep the scales of 4-bit layers in 8 bits, too.
        block_size: Weights of one output that share a scale in 4 bits.
    """

    name: ClassVar[str] = "qlora"
    summary: ClassVar[str] = "LoRA on a frozen model in 4 or 8 bits"

    quantization: str = field(default="nf4", metadata={"help": "bits of the frozen weights: int8, int4 or nf4"})
    double_quantization: bool = field(default=True, metadata={"help": "8 bits for the scales of 4-bit weights"})
    block_size: int = field(default=64, metadata={"help": "4-bit weights that share a scale"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init in ("pissa", "olora"):
            raise ValueError(f"init={self.init!r} changes kernels, which are quantised here: take another start.")
        if self.quantization not in ("int8", "int4", "nf4"):
            raise ValueError(f"quantization must be int8, int4 or nf4. Received: quantization={self.quantization!r}")
        if self.block_size < 2:
            raise ValueError(f"block_size must be at least 2. Received: block_size={self.block_size}")

    def adapter(self, layer: Any, **options: Any) -> AdapterLayer:
        import keras

        from kpeft.layers.lora import LoRADense, LoRAEinsumDense

        kind = LoRADense if isinstance(layer, keras.layers.Dense) else LoRAEinsumDense
        return kind(layer, **options)

    def quantizes(self, layout: Layout) -> Mapping[str, Quantize]:
        from kpeft.layers.linear import matrix_axes
        from kpeft.layers.quantized import QuantizedEinsumDense, quantized_class
        from kpeft.targets import head_layers

        head = head_layers(layout) | head_layers(layout, self.train_head)
        found = {}
        for path, layer in layout.layers.items():
            kind = quantized_class(type(layer))
            if kind is None or path in head or not layer.built or layer.quantization_mode is not None:
                continue
            if kind is not QuantizedEinsumDense or matrix_axes(layer.equation) is not None:
                found[path] = self._quantize(kind)
        return found

    def _quantize(self, kind: type[QuantizedLayer]) -> Quantize:
        def quantize(layer: Any) -> QuantizedLayer:
            return kind.of(
                layer,
                quantization=self.quantization,
                block_size=self.block_size,
                double_quantization=self.double_quantization,
            )

        return quantize

"""Bottleneck adapters: small networks inside each transformer layer.

Houlsby et al., 2019, https://arxiv.org/abs/1902.00751; Pfeiffer et al., 2020, https://arxiv.org/abs/2005.00247; He et
al., 2021, https://arxiv.org/abs/2110.04366
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.gates import GATED, with_masks
from kpeft.methods.method import Method, Wrap
from kpeft.methods.selective import LayerNorm

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout

# The layers that each style wraps.
STYLES: dict[str, tuple[str, ...]] = {
    "houlsby": ("attention_output", "output"),
    "pfeiffer": ("output",),
    "parallel": ("intermediate", "output"),
}
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Method):
    """Adds s·(g(x D + c) U + e) to each transformer layer, with D (d, size) and U (size, d).

    `houlsby` adds it to the outputs of attention and of the feed-forward, x being those outputs, and trains every
    LayerNorm; `pfeiffer` to the feed-forward's output only; `parallel` there, too, x being the feed-forward's input.
    `pfeiffer` is thus the second half of `houlsby`, its LayerNorms frozen. (AdapterHub's configuration of that name
    stands behind the feed-forward, too, but takes the residual connection and LayerNorm into x.)
    All stand before the residual connection, and before the dropout that comes ahead of it. U starts at zero, so that
    training starts from the pretrained model itself. An adapter is no change of a kernel: it cannot be merged.

    Attributes:
        size: Width of the bottleneck.
        style: Where adapters stand.
        activation: g: gelu, relu, silu or tanh.
        scale: s; He et al. take 4 with `parallel`.
        train_layernorm: Train every LayerNorm; `None` is as the style has it.
        gated: Scale what an adapter adds to a row by a gate that reads x, see `kpeft.layers.InputGate`; with `pfeiffer`
            one part of UniPELT (Mao et al., 2022, https://arxiv.org/abs/2110.07577).
    """

    name: ClassVar[str] = "bottleneck"
    summary: ClassVar[str] = "small networks inside each transformer layer"

    size: int = field(default=64, metadata={"help": "width of the bottleneck"})
    style: str = field(default="houlsby", metadata={"help": "where adapters stand: houlsby, pfeiffer or parallel"})
    activation: str = field(default="gelu", metadata={"help": "inside the bottleneck: gelu, relu, silu or tanh"})
    scale: float = field(default=1.0, metadata={"help": "factor of what an adapter adds"})
    train_layernorm: bool | None = field(
        default=None, metadata={"help": "train every LayerNorm, too; by default with style houlsby only"}
    )
    gated: bool = field(default=False, metadata={"help": GATED})

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1. Received: size={self.size}")
        if self.style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}. Received: style={self.style!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}. Received: activation={self.activation!r}"
            )

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        wraps = {path: self._wrap(term) for path, term in places(layout, self.style, self.name).items()}
        return with_masks(layout, wraps) if self.gated else wraps

    def _wrap(self, term: str) -> Wrap:
        def wrap(layer: Any, seed: int) -> AdapterLayer:
            from kpeft.layers.bottleneck import ParallelDown, ParallelUp, SequentialBottleneck

            pair = ParallelDown if term == "intermediate" else ParallelUp
            kind = pair if self.style == "parallel" else SequentialBottleneck
            return kind(
                layer,
                size=self.size,
                activation=self.activation,
                scale=self.scale,
                gated=self.gated,
                seed=seed,
                name=layer.name,
            )

        return wrap

    def trained(self, layout: Layout) -> set[str]:
        layernorm = self.style == "houlsby" if self.train_layernorm is None else self.train_layernorm
        return LayerNorm().trained(layout) if layernorm else set()


def places(layout: Layout, style: str, method: str) -> dict[str, str]:
    """Returns the layers that adapters of a style stand at, and what the model's family calls each, by path.

    Raises:
        ValueError: If the model holds no encoder of a known family; it names the method.
    """
    from kpeft.targets import named_layers

    layers = named_layers(layout)
    if not layers:
        raise ValueError(f"{method} needs a KerasHub encoder, and model {layout.model.name!r} holds none.")
    return {path: each.place.term for path, each in layers.items() if each.place.term in STYLES[style]}

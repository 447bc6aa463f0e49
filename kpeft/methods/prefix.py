"""Prefix tuning: learned keys and values in every layer (Li & Liang, 2021, https://arxiv.org/abs/2101.00190)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.gates import GATED, with_masks
from kpeft.methods.method import Method, Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.layers.prefix import PrefixProjection
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """Learns n keys and n values that every attention layer sees before its own; for encoders that is P-tuning v2.

    As in Hugging Face PEFT, the positions of the real tokens start at n. Layers that an encoder applies repeatedly, as
    ALBERT does, have one prefix for all times.

    Attributes:
        tokens: Number n of virtual tokens.
        projection: Project all prefixes from the same n vectors, by a layer with tanh and another one for each layer.
        hidden: Width of that layer. `None` is the width of the attention layers.
        dropout: Share of the prefixes that is dropped in training.
        gated: Scale each row's prefix in a layer by a gate that reads the layer's input, see
            `kpeft.layers.PrefixAttention`; one part of UniPELT (Mao et al., 2022, https://arxiv.org/abs/2110.07577).
    """

    name: ClassVar[str] = "prefix"
    summary: ClassVar[str] = "keys and values before those of every attention layer"

    tokens: int = field(default=20, metadata={"help": "number of virtual tokens"})
    projection: bool = field(default=False, metadata={"help": "project all prefixes from the same vectors"})
    hidden: int | None = field(default=None, metadata={"help": "width of the projection's hidden layer"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the prefixes"})
    gated: bool = field(default=False, metadata={"help": GATED})

    def __post_init__(self) -> None:
        for name in ("tokens", "hidden"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {name}={value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={self.dropout}")

    @property
    def positions(self) -> int:
        return self.tokens

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        import keras

        from kpeft.layers.prompt import is_position_embedding

        attention = [p for p, layer in layout.layers.items() if isinstance(layer, keras.layers.MultiHeadAttention)]
        if not attention:
            raise ValueError(
                f"prefix tuning needs Keras's MultiHeadAttention, and model {layout.model.name!r} has none (DeBERTa's "
                "attention knows keys only by their distance, which a prefix has not): take --method prompt."
            )
        shared: list[PrefixProjection] = []
        positions = [path for path, layer in layout.layers.items() if is_position_embedding(layer)]
        attend: Mapping[str, Wrap] = {path: self._attend(shared) for path in attention}
        if self.gated:
            attend = with_masks(layout, attend)
        return {**dict.fromkeys(positions, self._shift), **attend}

    def _shift(self, layer: Any, seed: int) -> AdapterLayer:
        from kpeft.layers.prompt import ShiftedPositions

        return ShiftedPositions(layer, tokens=self.tokens, name=layer.name)

    def _attend(self, shared: list[PrefixProjection]) -> Wrap:
        """Wraps an attention layer; with a projection, the first one's serves all."""

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            from kpeft.layers.prefix import PrefixAttention, PrefixProjection

            if self.projection and not shared:
                width = layer.num_heads * layer.key_dim
                shared.append(PrefixProjection(self.tokens, width, self.hidden or width, seed, name="projection"))
            return PrefixAttention(
                layer,
                tokens=self.tokens,
                projection=shared[0] if shared else None,
                dropout=self.dropout,
                gated=self.gated,
                seed=seed,
                name=layer.name,
            )

        return wrap

    def trained(self, layout: Layout) -> set[str]:
        return set()

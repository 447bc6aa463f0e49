"""LoHa: the product of two low-rank changes (Hyeon-Woo et al., 2021, https://arxiv.org/abs/2108.06098)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.method import Method, Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout


@final
@dataclass(frozen=True, kw_only=True)
class LoHa(Method):
    """Adds s·(A1 B1) ⊙ (A2 B2), each of rank r, to the kernel of each target; s is alpha / r.

    Attributes:
        rank: Rank r; that of the whole change can be r².
        alpha: Scale of the change.
        targets: Which linear layers, see `LoRA`.
    """

    name: ClassVar[str] = "loha"
    summary: ClassVar[str] = "products of two low-rank changes"

    rank: int = field(default=8, metadata={"help": "rank of the change"})
    alpha: float = field(default=8.0, metadata={"help": "scale: the change is multiplied by alpha / rank"})
    targets: str | tuple[str, ...] = field(
        default=("query", "value"), metadata={"help": "layers: names, all-linear, or a regular expression"}
    )

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={self.rank}")

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        from kpeft.layers.loha import LoHaLinear
        from kpeft.targets import resolve_linear

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            return LoHaLinear(layer, rank=self.rank, alpha=self.alpha, seed=seed, name=layer.name)

        return dict.fromkeys(resolve_linear(layout, self.targets), wrap)

    def trained(self, layout: Layout) -> set[str]:
        return set()

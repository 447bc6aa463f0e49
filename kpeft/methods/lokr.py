"""LoKr: Kronecker products of small matrices (Edalati et al., 2022, https://arxiv.org/abs/2212.10650)."""

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
class LoKr(Method):
    """Adds s·W1 ⊗ W2 to the kernel of each target; W2 is a product of rank r where that is smaller; s is alpha / r.

    Attributes:
        rank: Rank r of W2.
        alpha: Scale of the change.
        targets: Which linear layers, see `LoRA`.
        decompose_both: W1 is a product of rank r, too, where that is smaller.
        decompose_factor: Number of rows and of columns of W1, if a kernel's divide by it; -1 makes both matrices about
            as large.
    """

    name: ClassVar[str] = "lokr"
    summary: ClassVar[str] = "Kronecker products of small matrices"

    rank: int = field(default=8, metadata={"help": "rank of the change"})
    alpha: float = field(default=8.0, metadata={"help": "scale: the change is multiplied by alpha / rank"})
    targets: str | tuple[str, ...] = field(
        default=("query", "value"), metadata={"help": "layers: names, all-linear, or a regular expression"}
    )
    decompose_both: bool = field(default=False, metadata={"help": "low-rank factors for both matrices"})
    decompose_factor: int = field(default=-1, metadata={"help": "size of the first matrix; -1: as large as the second"})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={self.rank}")
        if self.decompose_factor < 1 and self.decompose_factor != -1:
            raise ValueError(
                f"decompose_factor must be at least 1, or -1. Received: decompose_factor={self.decompose_factor}"
            )

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        from kpeft.layers.lokr import LoKrLinear
        from kpeft.targets import resolve_linear

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            return LoKrLinear(
                layer,
                rank=self.rank,
                alpha=self.alpha,
                decompose_both=self.decompose_both,
                decompose_factor=self.decompose_factor,
                seed=seed,
                name=layer.name,
            )

        return dict.fromkeys(resolve_linear(layout, self.targets), wrap)

    def trained(self, layout: Layout) -> set[str]:
        return set()

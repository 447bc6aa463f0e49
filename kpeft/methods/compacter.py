"""Compacter: bottleneck adapters of Kronecker products.

Karimi Mahabadi et al., 2021, https://arxiv.org/abs/2106.04647
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.bottleneck import places
from kpeft.methods.method import Method, Wrap
from kpeft.methods.selective import LayerNorm

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.layers.compacter import HypercomplexRule
    from kpeft.sites import Layout

STYLES = ("houlsby", "pfeiffer")


@dataclass(frozen=True, kw_only=True)
class Compacter(Method):
    """Adds gelu(x D + c) U + e as `Bottleneck` does, with D and U of the form Σ_i A_i ⊗ (s_i t_i); trains LayerNorms.

    The matrices A_1 … A_n, n by n, are the same for D and U of all adapters; s_i and t_i, of rank r, are each map's
    own, see `kpeft.layers.CompacterBottleneck`. It cannot be merged.

    Attributes:
        size: Width of the bottleneck; n divides it and the model's width. The authors take a 32nd of the width.
        phm_dim: n.
        rank: r.
        style: Where adapters stand, see `Bottleneck`: `houlsby` is the paper's Compacter, `pfeiffer` its Compacter++.
    """

    name: ClassVar[str] = "compacter"
    summary: ClassVar[str] = "bottlenecks of Kronecker products that share a factor"

    size: int = field(default=24, metadata={"help": "width of the bottleneck"})
    phm_dim: int = field(default=4, metadata={"help": "number n of Kronecker products; it divides size and width"})
    rank: int = field(default=1, metadata={"help": "rank of each adapter's own factors"})
    style: str = field(default="houlsby", metadata={"help": "houlsby, or pfeiffer, which is Compacter++"})

    def __post_init__(self) -> None:
        for name in ("size", "phm_dim", "rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1. Received: {name}={getattr(self, name)}")
        if self.size % self.phm_dim:
            raise ValueError(f"phm_dim must divide size. Received: phm_dim={self.phm_dim} and size={self.size}")
        if self.style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}. Received: style={self.style!r}")

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        shared: list[HypercomplexRule] = []

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            from kpeft.layers.compacter import CompacterBottleneck, HypercomplexRule

            if not shared:  # the first adapter's serves all
                shared.append(HypercomplexRule(self.phm_dim, seed, dtype=layer.dtype_policy, name="rule"))
            return CompacterBottleneck(
                layer,
                rule=shared[0],
                rank=self.rank,
                size=self.size,
                seed=seed,
                name=layer.name,
            )

        return dict.fromkeys(places(layout, self.style, self.name), wrap)

    def trained(self, layout: Layout) -> set[str]:
        return LayerNorm().trained(layout)

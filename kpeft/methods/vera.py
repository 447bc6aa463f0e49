"""VeRA: trained scales of one frozen random low-rank change (Kopiczko et al., 2023, https://arxiv.org/abs/2310.11454)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.method import Method, Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class VeRA(Method):
    """Adds A·diag(λ_d)·B·diag(λ_b) to the kernel of each target; A and B are random, frozen, and the same for all.

    Attributes:
        rank: Rank r; it can be much higher than LoRA's, since a layer trains only r + outputs numbers.
        dropout: Share of each adapter's input that is dropped in training.
        targets: Which linear layers, see `LoRA`.
        d_initial: Where λ_d starts.
        projection_prng_key: Decides A and B, whatever the run's seed.
    """

    name: ClassVar[str] = "vera"
    summary: ClassVar[str] = "scales of one frozen random low-rank change"

    rank: int = field(default=256, metadata={"help": "rank of the change"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapters' input"})
    targets: str | tuple[str, ...] = field(
        default=("query", "value"), metadata={"help": "layers: names, all-linear, or a regular expression"}
    )
    d_initial: float = field(default=0.1, metadata={"help": "where the scales between A and B start"})
    projection_prng_key: int = field(default=0, metadata={"help": "seed of the frozen matrices A and B"})

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={self.rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={self.dropout}")
        if not 0 <= self.projection_prng_key < 2**32:
            raise ValueError(
                f"projection_prng_key must be at least 0 and below 2**32. Received: {self.projection_prng_key}"
            )

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        from kpeft.layers.linear import kernel_axes
        from kpeft.layers.vera import VeRALinear, VeRAProjection
        from kpeft.targets import resolve_linear

        sites = resolve_linear(layout, self.targets)
        layers = [layout.layers[path] for path in sites]
        shapes = [(tuple(layer.kernel.shape), kernel_axes(layer)) for layer in layers]
        projection = VeRAProjection(
            rank=self.rank,
            features_in=max(math.prod(shape[:axes]) for shape, axes in shapes),
            features_out=max(math.prod(shape[axes:]) for shape, axes in shapes),
            seed=self.projection_prng_key,
            name="vera_projection",
        )

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            return VeRALinear(
                layer,
                projection=projection,
                dropout=self.dropout,
                d_initial=self.d_initial,
                seed=seed,
                name=layer.name,
            )

        return dict.fromkeys(sites, wrap)

    def trained(self, layout: Layout) -> set[str]:
        return set()

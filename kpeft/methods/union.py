"""Several methods on one model, such as LoRA and BitFit, or a parallel bottleneck and a prefix (MAM adapters)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, final

from kpeft.families import HEADS
from kpeft.methods.method import Lengthening, Method, Quantize, RankBudget, Rate, Wrap

if TYPE_CHECKING:
    from kpeft.sites import Layout


@final
@dataclass(frozen=True, kw_only=True)
class Union(Method):
    """Puts several methods on a model at once: `LoRA(rank=4) + BitFit()`, or `--method lora+bitfit --rank 4`.

    Each part wraps layers of its own, and what any of them trains of the model itself is trained. Where two parts give
    a variable a learning rate of its own, the first part's counts. MAM adapters (He et al., 2022,
    https://arxiv.org/abs/2110.04366) are `Bottleneck(style="parallel") + Prefix()`, UniPELT (Mao et al., 2022,
    https://arxiv.org/abs/2110.07577) is `LoRA(gated=True) + Prefix(gated=True) + Bottleneck(style="pfeiffer",
    gated=True)`.

    Attributes:
        parts: The methods, at least two.
    """

    summary: ClassVar[str] = "several methods at once"

    parts: tuple[Method, ...]
    train_head: bool | str = field(init=False)

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"a union takes two methods or more, each once. Received: {'+'.join(names) or 'none'}")
        for part in self.parts:
            if isinstance(part, Union):
                raise ValueError(f"a union of unions: name their parts in one. Received: {self.name}")
            if isinstance(part, Lengthening):
                raise ValueError(f"method {part.name} makes a new model and goes with no other; prefix does.")
        object.__setattr__(self, "train_head", max((part.train_head for part in self.parts), key=_much))

    @cached_property
    def name(self) -> str:  # type: ignore[override]  # of a class everywhere else
        """The parts' names, joined by +."""
        return "+".join(part.name for part in self.parts)

    def with_defaults(self) -> Union:
        return Union(parts=tuple(part.with_defaults() for part in self.parts))

    @property
    def positions(self) -> int:
        return sum(part.positions for part in self.parts)

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        """Returns the parts' wraps.

        Raises:
            ValueError: If two parts would wrap the same layer.
        """
        wraps: dict[str, Wrap] = {}
        owners: dict[str, str] = {}
        for part in self.parts:
            for path, wrap in part.wraps(layout).items():
                if wraps.get(path, wrap) is not wrap:
                    raise ValueError(
                        f"methods {owners[path]} and {part.name} both adapt layer {path}: give one other targets."
                    )
                wraps[path], owners[path] = wrap, part.name
        return wraps

    def quantizes(self, layout: Layout) -> Mapping[str, Quantize]:
        quantizes: dict[str, Quantize] = {}
        for part in self.parts:
            quantizes |= part.quantizes(layout)
        return quantizes

    def trained(self, layout: Layout) -> set[str]:
        return set().union(*(part.trained(layout) for part in self.parts))

    def trained_with_head(self, layout: Layout) -> set[str]:
        return set().union(*(part.trained_with_head(layout) for part in self.parts))

    def rates(self, layout: Layout) -> Mapping[str, Rate]:
        rates: dict[str, Rate] = {}
        for part in reversed(self.parts):
            rates |= part.rates(layout)
        return rates

    def budget(self, layout: Layout) -> RankBudget | None:
        return next((budget for part in self.parts if (budget := part.budget(layout)) is not None), None)


def _much(train_head: bool | str) -> int:
    """How much of the head a part trains; what is no such value is refused where it is looked up."""
    return HEADS.index(train_head) if train_head in HEADS else len(HEADS)

"""What LoRA and its relatives share: a low-rank change of chosen linear layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kpeft.methods.method import Method, Rate, Wrap, is_bias

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout

BIAS_MODES = ("none", "lora_only", "all")
# One-dimensional in Hugging Face's models; there, LoRA+ gives them B's rate.
_VECTORS = frozenset({"lora_bias", "magnitude", "bias", "beta", "gamma"})
STARTS = ("default", "gaussian", "orthogonal", "pissa", "olora")


@dataclass(frozen=True, kw_only=True)
class LowRank(Method):
    """Adds s·A·B, of rank r, to the kernel of each target; s is alpha / r.

    Attributes:
        rank: Rank r.
        alpha: Scale of the change.
        dropout: Share of each adapter's input that is dropped in training.
        targets: Which linear layers: a name of the model's family (query key value attention_output intermediate output
            pooler), `"all-linear"`, a tuple of names, or a regular expression that matches a whole structural path.
        layers: Numbers of the transformer layers to adapt, from 0. `None` is all of them. In a run, those below the
            lowest work without dropout, and each row passes them once, see `kpeft.training.trained_part`.
        rank_pattern: Another rank for the layers that a name or regular expression matches.
        alpha_pattern: Another alpha, likewise.
        use_rslora: s = alpha / sqrt(r) (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732).
        bias: Which biases to train, too: `"none"`, `"lora_only"` (of the adapted layers) or `"all"`.
        init: Where A and B start: `"default"` (A uniform in ±1/sqrt(in), B zero), `"gaussian"` (A normal, B zero),
            `"orthogonal"` (both non-zero, A·B zero), or the kernel's own largest part, which moves from the kernel into
            A and B so that the model computes the same: `"pissa"` by singular values (Meng et al., 2024,
            https://arxiv.org/abs/2404.02948), `"olora"` by QR (Büyükakyüz, 2024, https://arxiv.org/abs/2406.01775).
        lr_ratio: B's learning rate as a multiple of A's, which is the run's: LoRA+ (Hayou et al., 2024,
            https://arxiv.org/abs/2402.12354). As in Hugging Face PEFT, biases and DoRA's magnitudes go with B, the
            head's kernels with A. An adapter in PEFT's format does not keep it.
    """

    rank: int = field(default=8, metadata={"help": "rank of the change"})
    alpha: float = field(default=16.0, metadata={"help": "scale: the change is multiplied by alpha / rank"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapters' input"})
    targets: str | tuple[str, ...] = field(
        default=("query", "value"), metadata={"help": "layers: names, all-linear, or a regular expression"}
    )
    layers: tuple[int, ...] | None = field(default=None, metadata={"help": "transformer layers to adapt, e.g. 0,1,2"})
    rank_pattern: Mapping[str, int] = field(default_factory=dict, metadata={"help": "other ranks, e.g. query=4"})
    alpha_pattern: Mapping[str, float] = field(default_factory=dict, metadata={"help": "other alphas, e.g. query=8"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank)"})
    bias: str = field(default="none", metadata={"help": "biases to train, too: none, lora_only or all"})
    init: str = field(default="default", metadata={"help": f"where the factors start: {', '.join(STARTS)}"})
    lr_ratio: float = field(default=1.0, metadata={"help": "learning rate of B over that of A (LoRA+)"})

    def __post_init__(self) -> None:
        for rank in (self.rank, *self.rank_pattern.values()):
            if rank < 1:
                raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={self.dropout}")
        if self.bias not in BIAS_MODES:
            raise ValueError(f"bias must be one of {', '.join(BIAS_MODES)}. Received: bias={self.bias!r}")
        if self.init not in STARTS:
            raise ValueError(f"init must be one of {', '.join(STARTS)}. Received: init={self.init!r}")
        if not self.lr_ratio > 0:
            raise ValueError(f"lr_ratio must be above 0. Received: lr_ratio={self.lr_ratio}")

    def sites(self, layout: Layout) -> list[str]:
        """Returns the paths of the layers to adapt.

        Raises:
            ValueError: If a target or a layer number matches nothing, a target stands in no numbered layer and `layers`
                would drop it, or a target is no linear layer.
        """
        from kpeft.targets import is_linear, layer_numbers, resolve

        paths = resolve(layout, self.targets)
        if self.layers is not None:
            if not self.layers:
                raise ValueError("layers names no layer: give it a number, or leave it out. Received: layers=()")
            numbers = layer_numbers(layout)
            for target in [self.targets] if isinstance(self.targets, str) else self.targets:
                if not numbers.keys() & set(resolve(layout, target)):
                    raise ValueError(
                        f"target {target!r} stands in no numbered layer, so that layers={self.layers} would drop it: "
                        "leave out layers, or that target."
                    )
            missing = sorted(set(self.layers) - {numbers[path] for path in paths if path in numbers})
            if missing:
                raise ValueError(
                    f"layers={missing} hold none of the targets; the model's layers are 0 to {max(numbers.values())}."
                )
            paths = [path for path in paths if numbers.get(path) in self.layers]
        for path in paths:
            if not is_linear(layout.layers[path]):
                kind = type(layout.layers[path]).__name__
                raise ValueError(
                    f"method {self.name} adapts Dense and EinsumDense layers, but target {path} is a {kind}."
                )
        return paths

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        sites = self.sites(layout)
        ranks = _by_path(layout, sites, self.rank_pattern, "rank_pattern")
        alphas = _by_path(layout, sites, self.alpha_pattern, "alpha_pattern")
        return {path: self._wrap(ranks.get(path, self.rank), alphas.get(path, self.alpha)) for path in sites}

    def _wrap(self, rank: int, alpha: float) -> Wrap:
        def wrap(layer: Any, seed: int) -> AdapterLayer:
            return self.adapter(
                layer,
                rank=rank,
                alpha=alpha,
                dropout=self.dropout,
                use_rslora=self.use_rslora,
                init=self.init,
                seed=seed,
                name=layer.name,
            )

        return wrap

    @abstractmethod
    def adapter(self, layer: Any, **options: Any) -> AdapterLayer:
        """Makes the adapter of a `Dense` or an `EinsumDense`; the options are `LoRALayer`'s."""

    def rates(self, layout: Layout) -> Mapping[str, Rate]:
        if self.lr_ratio == 1:
            return {}
        faster = {*_VECTORS, "lora_b"}
        return {path: Rate(self.lr_ratio) for path in layout.variables if path.rpartition("/")[2] in faster}

    def trained(self, layout: Layout) -> set[str]:
        if self.bias == "none":
            return set()
        biases = {path for path in layout.variables if is_bias(path)}
        if self.bias == "all":
            return biases
        sites = set(self.sites(layout))
        return {path for path in biases if path.rpartition("/")[0] in sites}


def _by_path(layout: Layout, sites: list[str], pattern: Mapping[str, Any], option: str) -> dict[str, Any]:
    """Spreads a pattern's values over the adapted layers; where several keys match, the first counts."""
    from kpeft.targets import resolve

    values: dict[str, Any] = {}
    for key, value in pattern.items():
        matched = [path for path in resolve(layout, key, option=option) if path in sites]
        if not matched:
            raise ValueError(f"{option}: {key!r} matches none of the adapted layers.")
        for path in matched:
            values.setdefault(path, value)
    return values

"""Methods without layers of their own: full fine-tuning, head only, frozen lower layers, LayerNorm tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kpeft.methods.method import Method, Rate

if TYPE_CHECKING:
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full fine-tuning: everything is trained.

    The two options are ULMFiT's (Howard & Ruder, 2018, https://arxiv.org/abs/1801.06146). With d = 0 for the head and
    the pooler, 1 for the top transformer layer, and so on down to L + 1 for the embeddings below L layers:

    Attributes:
        layer_decay: The learning rate of depth d is layer_decay^d times the run's.
        unfreeze_every: Depth d is trained from step d · unfreeze_every on, counted from 0. Until then its weights and
            Adam's state of them stay as they are, and its gradients do not count for clipping: it then starts as a
            training of its own would. A step takes as long as without it. `None` trains everything from the start.
    """

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every weight"

    layer_decay: float = field(default=1.0, metadata={"help": "factor of the learning rate from layer to layer, down"})
    unfreeze_every: int | None = field(
        default=None, metadata={"help": "train one layer more, from the top, every so many steps"}
    )

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1. Received: layer_decay={self.layer_decay}")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"unfreeze_every must be at least 1. Received: unfreeze_every={self.unfreeze_every}")

    def trained(self, layout: Layout) -> set[str]:
        self.rates(layout)  # a model without numbered layers is refused before anything is changed
        return set(layout.variables)

    def rates(self, layout: Layout) -> Mapping[str, Rate]:
        from kpeft.targets import layer_numbers

        if self.layer_decay == 1 and self.unfreeze_every is None:
            return {}
        numbers, above = layer_numbers(layout), _above_layers(layout)
        top = max(numbers.values())

        def depth(path: str) -> int:
            layer = path.rpartition("/")[0]
            return 0 if layer in above else top + 1 - numbers.get(layer, -1)

        depths = {path: depth(path) for path in layout.variables}
        return {path: Rate(self.layer_decay**d, d * (self.unfreeze_every or 0)) for path, d in depths.items()}


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Method):
    """A frozen encoder: only the classification head is trained.

    In a run the encoder works without dropout, as a feature extractor does; the head keeps its own. Each row is then
    computed once, and rows · d · itemsize bytes are kept, see `kpeft.training.trained_part`.
    """

    name: ClassVar[str] = "head"
    summary: ClassVar[str] = "the classification head"

    def trained(self, layout: Layout) -> set[str]:
        return set()


@dataclass(frozen=True, kw_only=True)
class Freeze(Method):
    """Fine-tuning of the upper layers (Lee et al., 2019, https://arxiv.org/abs/1911.03090).

    In a run the frozen layers work without dropout, as a feature extractor does; the trained ones keep theirs. Each row
    then passes the frozen layers once, and tokens · d · itemsize bytes are kept, see `kpeft.training.trained_part`.

    Attributes:
        layers: How many transformer layers to freeze, from the input on. `None` freezes three quarters of them (rounded
            down), which the paper finds to cost at most a tenth of the quality.
        embeddings: Freeze what comes before the first layer, too.
    """

    name: ClassVar[str] = "freeze"
    summary: ClassVar[str] = "all but the embeddings and the first transformer layers"

    layers: int | None = field(default=None, metadata={"help": "how many layers to freeze; three quarters by default"})
    embeddings: bool = field(default=True, metadata={"help": "freeze the embeddings, too"})

    def trained(self, layout: Layout) -> set[str]:
        from kpeft.targets import layer_numbers

        numbers = layer_numbers(layout)
        count = max(numbers.values()) + 1
        layers = count * 3 // 4 if self.layers is None else self.layers
        if not 0 <= layers <= count:
            raise ValueError(
                f"layers must be between 0 and {count}, the layers of the model. Received: layers={layers}"
            )
        above = _above_layers(layout)

        def frozen(path: str) -> bool:
            layer = path.rpartition("/")[0]
            if layer in numbers:
                return numbers[layer] < layers
            return self.embeddings and layer not in above

        return {path for path in layout.variables if not frozen(path)}


def _above_layers(layout: Layout) -> set[str]:
    """Returns the paths of the layers of the head, and of a pooler."""
    from kpeft.targets import head_layers

    return head_layers(layout, "pooler")


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Method):
    """LayerNorm tuning: scales and offsets of every LayerNorm (Zhao et al., 2023, https://arxiv.org/abs/2312.11420).

    Attributes:
        terms: Which of them: names of the model's family (attention_layernorm output_layernorm embeddings_layernorm) or
            regular expressions over layer paths. `None` is all of them.
    """

    name: ClassVar[str] = "layernorm"
    summary: ClassVar[str] = "scale and offset of every LayerNorm"

    terms: tuple[str, ...] | None = field(
        default=None, metadata={"help": "whose scales and offsets, e.g. output_layernorm; all by default"}
    )

    def trained(self, layout: Layout) -> set[str]:
        import keras

        from kpeft.targets import resolve

        norms = {path for path, layer in layout.layers.items() if isinstance(layer, keras.layers.LayerNormalization)}
        if not norms:
            raise ValueError(f"model {layout.model.name!r} has no LayerNormalization layer to tune.")
        if self.terms is not None:
            chosen = resolve(layout, self.terms, option="terms")
            for path in chosen:
                if path not in norms:
                    kind = type(layout.layers[path]).__name__
                    raise ValueError(f"terms={self.terms!r} name {path}, a {kind} and no LayerNormalization layer.")
            norms = set(chosen)
        return {path for path in layout.variables if path.rpartition("/")[0] in norms}

"""Methods without layers of their own: full fine-tuning, head only, frozen lower layers, LayerNorm tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kpeft.methods.method import Method

if TYPE_CHECKING:
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full fine-tuning: everything is trained."""

    name: ClassVar[str] = "full"
    summary: ClassVar[str] = "every weight"

    def trained(self, layout: Layout) -> set[str]:
        return set(layout.variables)


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
        from kpeft.targets import head_layers, layer_numbers, named_layers

        numbers = layer_numbers(layout)
        count = max(numbers.values()) + 1
        layers = count * 3 // 4 if self.layers is None else self.layers
        if not 0 <= layers <= count:
            raise ValueError(
                f"layers must be between 0 and {count}, the layers of the model. Received: layers={layers}"
            )
        poolers = {path for path, layer in named_layers(layout).items() if layer.place.term == "pooler"}
        above = head_layers(layout) | poolers

        def frozen(path: str) -> bool:
            layer = path.rpartition("/")[0]
            if layer in numbers:
                return numbers[layer] < layers
            return self.embeddings and layer not in above

        return {path for path in layout.variables if not frozen(path)}


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

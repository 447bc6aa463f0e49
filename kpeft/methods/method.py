"""What a method is: a frozen dataclass that says which layers to wrap, with what, and which variables to train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.layers.quantized import QuantizedLayer
    from kpeft.methods.union import Union
    from kpeft.sites import Layout

BIASES = ("bias", "beta")
"""Names of bias variables; `beta` is LayerNorm's."""

Wrap = Callable[[Any, int], "AdapterLayer"]
"""Makes the adapter of one layer: (layer, seed) -> adapter."""

Quantize = Callable[[Any], "QuantizedLayer"]
"""Makes the unbuilt layer that stands for a layer with its weight in few bits."""


@dataclass(frozen=True)
class Rate:
    """How fast one variable is trained beside the others.

    Attributes:
        factor: Its learning rate is so many times the run's.
        first_step: It is held as it is before this step, counted from 0.
    """

    factor: float = 1.0
    first_step: int = 0


@dataclass(frozen=True, kw_only=True)
class RankBudget:
    """How training drops parts of low-rank changes; the formulas are in `kpeft.training.rank_budget`.

    Attributes:
        triplets: Structural paths of A, e and B of each layer.
        target_rank: How many e of a layer are not zero in the end, on average over the layers.
        tinit: Steps before the first is dropped: below 1 a share of the run, else a number.
        tfinal: Steps after the last is dropped, likewise.
        delta_t: Steps from one choice to the next.
        beta1: Decay of the weights' sensitivity.
        beta2: Decay of its uncertainty.
        orth_reg_weight: Weight of what keeps A and B orthogonal.
    """

    triplets: tuple[tuple[str, str, str], ...]
    target_rank: int
    tinit: float
    tfinal: float
    delta_t: int
    beta1: float
    beta2: float
    orth_reg_weight: float


@dataclass(frozen=True)
class Plan:
    """What a method does to one model.

    Attributes:
        wraps: How to wrap which layer, by structural path.
        trained: Structural paths of the model's own variables that stay trainable; adapters' own always are.
        quantizes: Which layers to quantise, and how, by structural path; wrapped ones among them are wrapped then.
    """

    wraps: Mapping[str, Wrap]
    trained: frozenset[str]
    quantizes: Mapping[str, Quantize]


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fine-tune a model.

    Attributes:
        train_head: Train the whole classification head; `"logits"`: of it the last layer alone, as Hugging Face PEFT
            does to DeBERTa; `"pooler"`: BERT's or ALBERT's pooler with it. What is not trained whole has its kernels
            frozen, and its biases follow the method.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    train_head: bool | str = field(
        default=True,
        metadata={"help": "train the whole head (true), its last layer (logits), the pooler with it (pooler), or none"},
    )

    def __add__(self, other: Method) -> Union:
        """Returns both methods at once."""
        from kpeft.methods.union import Union

        parts = (each.parts if isinstance(each, Union) else (each,) for each in (self, other))
        return Union(parts=tuple(part for several in parts for part in several))

    def with_defaults(self) -> Method:
        """Returns the same method with every option as it comes."""
        return type(self)()

    @property
    def positions(self) -> int:
        """How many of the model's positions the method itself takes up; rows may be so much shorter at most."""
        return 0

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        """Returns how to wrap which layers; nothing, for a method without layers of its own."""
        return {}

    def quantizes(self, layout: Layout) -> Mapping[str, Quantize]:
        """Returns which layers to quantise, and how; nothing, for a method that leaves weights as they are."""
        return {}

    @abstractmethod
    def trained(self, layout: Layout) -> set[str]:
        """Returns the paths of the model's own variables that the method trains, the head apart."""

    def rates(self, layout: Layout) -> Mapping[str, Rate]:
        """Returns the rates of variables that are not trained as the run says, by structural path.

        Args:
            layout: The model with the method on it.
        """
        return {}

    def budget(self, layout: Layout) -> RankBudget | None:
        """Returns what training drops as it goes, or `None` where all stays.

        Args:
            layout: The model with the method on it.
        """
        return None

    def plan(self, layout: Layout) -> Plan:
        """Returns what this method does to the model.

        Raises:
            ValueError: If an option does not fit the model, or nothing would be trained.
        """
        trained = self.trained_with_head(layout)
        wraps = self.wraps(layout)
        if not trained and not wraps:
            raise ValueError(f"{self!r} would train nothing in model {layout.model.name!r}.")
        quantizes = self.quantizes(layout)
        for path in sorted(trained):
            if path.rpartition("/")[0] in quantizes and not is_bias(path):
                raise ValueError(f"method {self.name} would train {path}, which it quantises.")
        return Plan(wraps, frozenset(trained), quantizes)

    def trained_with_head(self, layout: Layout) -> set[str]:
        """Returns the paths of the model's own variables that the method trains."""
        from kpeft.targets import head_layers

        head, whole = head_layers(layout), head_layers(layout, self.train_head)
        layers = {path: path.rpartition("/")[0] for path in layout.variables}
        followed = {path for path in self.trained(layout) if layers[path] not in head or is_bias(path)}
        return followed | {path for path, layer in layers.items() if layer in whole}


@dataclass(frozen=True, kw_only=True)
class Lengthening(Method):
    """A method whose virtual tokens lengthen the sequence: it makes a new model and leaves the one it is put on."""

    @abstractmethod
    def lengthen(self, layout: Layout, seed: int) -> tuple[Any, Mapping[str, AdapterLayer]]:
        """Returns a model around the layers of another, and the adapter layers in it by structural path.

        Raises:
            ValueError: If the model is none that can be lengthened.
        """


def is_bias(path: str) -> bool:
    """Whether a variable's path ends in the name of a bias."""
    return path.rpartition("/")[2] in BIASES

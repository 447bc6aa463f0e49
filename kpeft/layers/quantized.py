"""Keras layers whose kernel or table is frozen in few bits: the base under QLoRA (Dettmers et al., 2023,
https://arxiv.org/abs/2305.14314).

Keras's own quantised layers are not used: they round the activations, too, or keep one 4-bit scale for a whole output,
and they have no NF4. Its quantiser for 8 bits is.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Self

import keras
from keras import ops

from kpeft.layers.fast import FastDense, FastEinsumDense, FastLayer
from kpeft.layers.linear import finish, linear, matrix_axes
from kpeft.layers.quantized_tensor import QuantizedTensor
from kpeft.quantization import Blocks4, Form, Int8

QUANTIZATIONS = ("int8", "int4", "nf4")


class QuantizedLayer(FastLayer):
    """What quantised layers share: one weight is a `QuantizedTensor`, and all else is as in the Keras layer.

    A new layer's weight is zero; `of` makes one from a layer that has its weights. The other variables, biases among
    them, are float and as trainable as ever. A `.keras` file holds the codes and scales and reloads to the bit.

    Args:
        *args: Of the Keras layer.
        quantization: `"int8"`, `"int4"` or `"nf4"`, see `kpeft.quantization`; tables of embeddings are int8 throughout.
        block_size: Weights that share a scale in 4 bits.
        double_quantization: Whether 4-bit layers keep their scales in 8 bits.
        **kwargs: Of the Keras layer.
    """

    weight: ClassVar[str]
    """The name that the Keras layer gives the weight."""

    def __init__(
        self,
        *args: Any,
        quantization: str = "nf4",
        block_size: int = 64,
        double_quantization: bool = True,
        **kwargs: Any,
    ) -> None:
        check_quantization(quantization, block_size)
        super().__init__(*args, **kwargs)
        self.quantization = quantization
        self.block_size = block_size
        self.double_quantization = double_quantization

    @classmethod
    def of(cls, layer: Any, **options: Any) -> Self:
        """Returns an unbuilt layer that can stand for `layer`; `take_weights` fills it once it is built.

        Args:
            layer: A layer of the Keras class.
            **options: `quantization`, `block_size` and `double_quantization`.
        """
        made: Self = cls.from_config({**layer.get_config(), **options})  # type: ignore[attr-defined]
        return made

    @abstractmethod
    def form(self, shape: tuple[int, ...]) -> Form:
        """Returns how a weight of this shape is stored."""

    def add_weight(self, *args: Any, name: str | None = None, **kwargs: Any) -> Any:
        add_weight = super().add_weight  # type: ignore[misc]
        if name != self.weight:
            return add_weight(*args, name=name, **kwargs)
        shape = tuple(kwargs["shape"])
        self.quantized = QuantizedTensor(shape, self.form(shape), add_weight, name)
        return self.quantized

    def take_weights(self, layer: Any) -> None:
        """Quantises the weight of a built Keras layer and copies its other variables."""
        self.quantized.assign(_by_name(layer)[self.weight].value)
        self.take_others(layer)

    def take_others(self, layer: Any) -> None:
        """Copies the variables of a Keras layer that are not quantised."""
        own = _by_name(self)
        for name, variable in _by_name(layer).items():
            if name != self.weight:
                own[name].assign(variable.value)

    def give_weights(self, layer: Any) -> None:
        """Writes the dequantised weight and the other variables, and whether each is trained, into a Keras layer."""
        own = _by_name(self)
        for name, variable in _by_name(layer).items():
            source = self.quantized if name == self.weight else own[name]
            variable.assign(source.value)
            variable.trainable = source.trainable

    def hidden_parameters(self) -> int:
        """Returns how many parameters the quantised weight has, less the number of scalars that store it."""
        return math.prod(self.quantized.shape) - sum(math.prod(v.shape) for v in self.quantized.variables)

    def save_own_variables(self, store: Any) -> None:
        keras.layers.Layer.save_own_variables(self, store)  # the Keras layers' own know their own modes only

    def load_own_variables(self, store: Any) -> None:
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),  # type: ignore[misc]
            "quantization": self.quantization,
            "block_size": self.block_size,
            "double_quantization": self.double_quantization,
        }


def check_quantization(quantization: str, block_size: int) -> None:
    """Checks options.

    Raises:
        ValueError: If one is out of its range.
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}. Received: {quantization=}")
    if block_size < 2:
        raise ValueError(f"block_size must be at least 2. Received: {block_size=}")


def _by_name(layer: Any) -> dict[str, Any]:
    return {variable.name: variable for variable in layer.weights}


class QuantizedLinear(QuantizedLayer):
    """What quantised `Dense` and `EinsumDense` share."""

    weight = "kernel"

    @classmethod
    def of(cls, layer: Any, **options: Any) -> Self:
        return super().of(layer, activation=layer.activation, **options)  # which need not have a registered name

    @property
    @abstractmethod
    def contracted(self) -> int:
        """How many axes of the kernel the product contracts, the first ones."""

    def form(self, shape: tuple[int, ...]) -> Form:
        matrix = math.prod(shape[: self.contracted]), math.prod(shape[self.contracted :])
        if self.quantization == "int8":
            return Int8(matrix)
        return Blocks4(matrix, self.quantization, self.block_size, self.double_quantization)

    def call(self, inputs: Any, training: Any = None) -> Any:
        return finish(self, linear(inputs, self.quantized, self.contracted))


@keras.saving.register_keras_serializable("kpeft")
class QuantizedDense(QuantizedLinear, keras.layers.Dense):
    """A `keras.layers.Dense` with a quantised kernel: y = f(x Ŵ + b), Ŵ frozen.

    Args:
        *args: See `QuantizedLayer`; so are the others.

    Example:
        >>> small = QuantizedDense.of(dense, quantization="nf4")
        >>> small.build((None, 16))
        >>> small.take_weights(dense)
    """

    @property
    def contracted(self) -> int:
        return 1


@keras.saving.register_keras_serializable("kpeft")
class QuantizedEinsumDense(QuantizedLinear, keras.layers.EinsumDense):
    """A `keras.layers.EinsumDense` that is a matrix product, such as attention's, with a quantised kernel.

    Args:
        *args: See `QuantizedLayer`; so are the others.
    """

    @property
    def contracted(self) -> int:
        axes = matrix_axes(self.equation)
        if axes is None:
            raise ValueError(
                "QuantizedEinsumDense needs an equation that is a matrix product, such as 'abc,cde->abde'. "
                f"Received: equation={self.equation!r}"
            )
        return axes


class QuantizedTable(QuantizedLayer):
    """A layer with a table of embeddings, stored as int8 with a scale for each row."""

    weight = "embeddings"

    def form(self, shape: tuple[int, ...]) -> Form:
        rows, columns = shape
        return Int8((rows, columns), by_row=True)


@keras.saving.register_keras_serializable("kpeft")
class QuantizedEmbedding(QuantizedTable, keras.layers.Embedding):
    """A `keras.layers.Embedding` with a quantised table, of which only the rows that are looked up are decoded.

    Args:
        *args: See `QuantizedLayer`; so are the others.
    """

    def call(self, inputs: Any) -> Any:
        return ops.cast(self.quantized.rows(ops.cast(inputs, "int32")), self.compute_dtype)


@keras.saving.register_keras_serializable("kpeft")
class QuantizedReversibleEmbedding(keras.layers.ReversibleEmbedding, QuantizedEmbedding):
    """A `keras.layers.ReversibleEmbedding` with a quantised table.

    Args:
        *args: See `QuantizedLayer`; so are the others.
    """


def quantized_class(kind: type) -> type[QuantizedLayer] | None:
    """Returns the class that stands for a Keras layer class with its weight in few bits, or `None` if there is none.

    Someone else's subclass may compute something else, so it has none. KerasHub's position embeddings and their
    subclasses get a class when first asked for, so that kpeft's layers need no KerasHub.
    """
    if kind in (keras.layers.Dense, FastDense):
        return QuantizedDense
    if kind in (keras.layers.EinsumDense, FastEinsumDense):
        return QuantizedEinsumDense
    if kind is keras.layers.Embedding:
        return QuantizedEmbedding
    if kind is keras.layers.ReversibleEmbedding or _is_hub(kind, "ReversibleEmbedding"):
        return QuantizedReversibleEmbedding
    if any(_is_hub(ancestor, "PositionEmbedding") for ancestor in kind.__mro__):
        return type(f"Quantized{kind.__name__}", (QuantizedTable, kind), {})
    return None


def _is_hub(kind: type, name: str) -> bool:
    return kind.__name__ == name and kind.__module__.startswith("keras_hub.")

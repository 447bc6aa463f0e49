"""A model in two at its frontier: the frozen part below everything that trains, and the part above it.

Beside sites.py and graphs.py the only file that relies on private parts of Keras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend import get_keras_mask

from kpeft.graphs import calls_forgotten, inputs_like, is_graph, run_graph
from kpeft.layers.quantized import QuantizedLayer

# Of its input, DeBERTa's table of relative positions takes the number of rows only. It is made anew above the
# frontier, where keeping it would mean the same large table for every row.
_TAKES_ONLY_THE_SHAPE = "RelativeEmbedding"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Two models that share the layers and variables of one.

    Attributes:
        lower: From the model's inputs to the frontier's tensors by name, shapes (batch, …) or (batch, length, …).
        upper: From those, and from the inputs that it needs itself, to the model's outputs.
        joined: Both in one, from the model's inputs; the frozen part always runs as in inference, without dropout.
    """

    lower: keras.Model
    upper: keras.Model
    joined: keras.Model


def split(model: Any) -> Split | None:
    """Cuts a model above its deepest frozen part.

    Frozen is what trains nothing and stands on nothing that trains, across nested Functional models. A dropout that
    leads directly into the trained part belongs to that part. Nothing is cut where the frozen part has no whole block,
    a layer made of linear layers as a transformer layer is: embeddings alone are cheaper to compute than to keep.

    Args:
        model: A Functional model with a dictionary of inputs and one output, such as a classifier of
            `kpeft.load_classifier`, as it is trainable now. Its layers and variables are shared, and left as they are;
            a layer that is put in another's place later is not in the parts.

    Returns:
        The split; `None` where there is nothing to cut, or where what crosses the frontier cannot be kept row by row:
        an axis other than the first two that is not fixed, or an implicit mask.
    """
    if not is_graph(model) or not isinstance(model.input, dict) or not model.trainable_variables:
        return None
    with calls_forgotten(model):
        return _split(model)


def _split(model: Any) -> Split | None:
    trace = _Trace(model)
    features, raw = trace.features, trace.raw
    if not trace.has_block or not features:
        return None
    if any(None in tensor.shape[2:] or get_keras_mask(tensor) is not None for tensor, _ in features.values()):
        return None
    lower = keras.Model(trace.inputs, {name: below for name, (below, _) in features.items()}, name="frozen_part")
    above = {name: tensor for name, (_, tensor) in features.items()} | raw
    upper = keras.Model(above, trace.output, name="trained_part")
    inputs = inputs_like(trace.inputs)
    crossing = {**_Inference(lower, name="inference")(inputs), **{name: inputs[name] for name in raw}}
    return Split(lower=lower, upper=upper, joined=keras.Model(inputs, upper(crossing), name=model.name))


class _Inference(keras.layers.Layer):
    """Runs a model as in inference, also in training."""

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs: Any) -> Any:
        return self.model(inputs, training=False)

    def compute_output_spec(self, inputs: Any) -> Any:
        return self.model.compute_output_spec(inputs)


class _Trace:
    """Calls every layer of a model once more on symbolic tensors, in two graphs that meet at the frontier.

    Attributes:
        inputs: The lower graph's inputs by name.
        features: By name, what crosses the frontier: (tensor of the lower graph, input of the upper graph).
        raw: Inputs of the model that the upper graph needs itself.
        output: The upper graph's output.
        has_block: Whether a whole block is in the lower graph and below the frontier.
    """

    def __init__(self, model: Any) -> None:
        self.features: dict[str, tuple[Any, Any]] = {}
        self.raw: dict[str, Any] = {}
        self.inputs = inputs_like(model.input)
        self._names = {id(tensor): name for name, tensor in self.inputs.items()}
        self._made_by: dict[int, tuple[Any, Any]] = {}  # tensor of the lower graph -> (layer, first argument)
        self._below_block: set[int] = set()  # tensors of the lower graph that a block has made, or that stand on one
        self._above: dict[int, Any] = {}  # tensors of the upper graph
        self._lifted: dict[int, Any] = {}  # tensor of the lower graph -> in the upper graph
        self._alive: list[Any] = []  # so that ids stay theirs
        self.output = run_graph(model, keras.tree.flatten(self.inputs), self._call)
        self.has_block = any(id(tensor) in self._below_block for tensor, _ in self.features.values())

    def _call(self, operation: Any, args: Any, kwargs: Any) -> Any:
        tensors = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        if is_graph(operation) and len(tensors) == len(operation.inputs):  # else there is a mask, too
            return run_graph(operation, tensors, self._call)
        above = _trains(operation) or any(id(tensor) in self._above for tensor in tensors)
        if above:
            args, kwargs = keras.tree.map_structure(self._lift, (args, kwargs))
        outputs = operation(*args, **kwargs)
        flat = keras.tree.flatten(outputs)
        self._alive += flat
        if above:
            self._above |= {id(tensor): tensor for tensor in flat}
        else:
            self._made_by |= {id(tensor): (operation, tensors[0]) for tensor in flat}
            if _is_block(operation) or any(id(tensor) in self._below_block for tensor in tensors):
                self._below_block |= {id(tensor) for tensor in flat}
        return outputs

    def _lift(self, value: Any) -> Any:
        """Returns what stands in the upper graph for an argument: itself, or the input where it crosses over."""
        if not isinstance(value, keras.KerasTensor) or id(value) in self._above:
            return value
        if id(value) not in self._lifted:
            self._lifted[id(value)] = self._cross(value)
        return self._lifted[id(value)]

    def _cross(self, tensor: Any) -> Any:
        if id(tensor) in self._names:
            name = self._names[id(tensor)]
            self.raw[name] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
            return self.raw[name]
        maker, argument = self._made_by[id(tensor)]
        if isinstance(maker, keras.layers.Dropout):
            return maker(self._lift(argument))
        if type(maker).__name__ == _TAKES_ONLY_THE_SHAPE:
            alike = [above for below, above in self.features.values() if below.shape == argument.shape]
            return maker(alike[0] if alike else self._lift(argument))
        name = f"frozen_{len(self.features)}"
        above = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        self.features[name] = (tensor, above)
        return above


def _trains(operation: Any) -> bool:
    """Whether training changes a layer: its weights, or statistics that it keeps."""
    if not isinstance(operation, keras.layers.Layer):
        return False
    layers = (layer for layer in operation._flatten_layers() if not isinstance(layer, QuantizedLayer))
    statistics = (layer._non_trainable_variables for layer in layers)
    return bool(operation.trainable_variables) or any(statistics)


def _is_block(operation: Any) -> bool:
    if not isinstance(operation, keras.layers.Layer):
        return False
    inside = operation._flatten_layers(include_self=False)
    return any(isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense) for layer in inside)

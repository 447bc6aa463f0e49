"""Functional graphs, node by node: running one again on other symbolic tensors.

With sites.py and frontier.py, all that relies on private parts of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.ops.numpy import GetItem

Call = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Calls one operation of a graph: (operation, args, kwargs) -> outputs, in the operation's own structure."""


def run_graph(graph: Any, inputs: list[Any], call: Call) -> Any:
    """Runs a Functional model's nodes once more, in order.

    Args:
        graph: The model.
        inputs: What takes the place of its inputs, in the order of `graph.inputs`.
        call: Calls each operation.

    Returns:
        What takes the place of its outputs, in their structure.
    """
    values = {id(inner): outer for inner, outer in zip(graph.inputs, inputs, strict=True)}
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.is_input:
                continue
            args, kwargs = node.arguments.fill_in(values)
            outputs = call(node.operation, args, kwargs)
            for tensor, value in zip(node.outputs, keras.tree.flatten(outputs), strict=True):
                values[id(tensor)] = value
    return keras.tree.map_structure(lambda tensor: values[id(tensor)], graph.output)


def is_graph(operation: Any) -> bool:
    """Whether an operation is a Functional model that computes just what its graph says."""
    return isinstance(operation, Functional) and type(operation).call is Functional.call


def is_slice(operation: Any) -> bool:
    """Whether an operation is `x[...]`."""
    return isinstance(operation, GetItem)


def inputs_like(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns new inputs of the same names, shapes and dtypes."""
    return {name: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=name) for name, t in inputs.items()}

"""Functional graphs, node by node: running one again on other symbolic tensors.

With sites.py and frontier.py, all that relies on private parts of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def calls_forgotten(graph: Any, *, after_errors_only: bool = False) -> Iterator[None]:
    """Forgets the calls made within the context, which Keras notes with each layer, inside nested models as well.

    The models made of them are complete by then; `summary()` and saving of the model itself would come upon them.

    Args:
        graph: The model whose layers are called.
        after_errors_only: Forget nothing unless an error ends the context.
    """
    lists = [nodes for each in _operations(graph) for nodes in (each._inbound_nodes, each._outbound_nodes)]
    lengths = [len(nodes) for nodes in lists]
    forget = True
    try:
        yield
        forget = not after_errors_only
    finally:
        for nodes, length in zip(lists, lengths, strict=True):
            if forget:
                del nodes[length:]  # calls only add to them


def forget_calls(graph: Any, shared: Any) -> None:
    """Forgets the calls that a graph is made of, where Keras notes them with layers of another that it shares."""
    calls = _nodes(graph) - _nodes(shared)
    for operation in _operations(shared):
        for nodes in (operation._inbound_nodes, operation._outbound_nodes):
            nodes[:] = [node for node in nodes if id(node) not in calls]
        for index, node in enumerate(operation._inbound_nodes):
            for tensor in node.outputs:
                tensor._keras_history = tensor._keras_history._replace(node_index=index)


def _nodes(graph: Any) -> set[int]:
    inside = (_nodes(operation) for operation in graph.operations if is_graph(operation))
    own = {id(node) for nodes in graph._nodes_by_depth.values() for node in nodes}
    return own.union(*inside)


def _operations(graph: Any) -> Iterator[Any]:
    for operation in graph.operations:
        yield operation
        if is_graph(operation):
            yield from _operations(operation)

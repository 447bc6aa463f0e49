"""Where things are in a model: structural paths of layers and variables, and how one layer takes another's place.

A structural path joins the names of the layers from the model down to a layer or variable. A name that Keras invented
(`dense_3`) depends on what the process built before; it gives way to the class and the position among its siblings, as
Keras's own saving does. An adapter layer and its base share one path, so wrapping a layer renames nothing.

All code that relies on private parts of Keras is in this file, frontier.py and graphs.py, but for the scope in
layers/linear.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
from keras.src.utils.naming import to_snake_case

from kpeft.families import FAMILIES, Family
from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.fast import FastLayer


def walk(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each layer below `layer` once, depth first, with its structural path; an adapter comes before its base."""
    yield from _walk(layer, path, set())


def _walk(layer: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    taken: dict[str, int] = {}
    for child in _children(layer):
        if isinstance(layer, AdapterLayer) and child is layer.base:
            child_path = path
        else:
            name = _component(child.name, child)
            count = taken[name] = taken.get(name, 0) + 1
            child_path = _join(path, name if count == 1 else f"{name}_{count - 1}")
        if id(child) not in seen:
            seen.add(id(child))
            yield child_path, child
            yield from _walk(child, child_path, seen)


def _children(layer: Any) -> list[Any]:
    """Sublayers in a stable order: those of a Functional graph first, as in Keras's saving."""
    in_graph = (
        layer.layers if isinstance(layer, keras.Model) and layer._obj_type() in ("Functional", "Sequential") else []
    )
    known = {id(child) for child in in_graph}
    return [*in_graph, *(child for child in layer._layers if id(child) not in known)]


def _component(name: str, thing: Any) -> str:
    while isinstance(thing, AdapterLayer):  # it carries its base's name
        thing = thing.base
    kind = next(c for c in type(thing).__mro__ if not issubclass(c, FastLayer))
    invented = {to_snake_case(type(thing).__name__), to_snake_case(kind.__name__)}
    stem, _, number = name.rpartition("_")
    return stem if stem in invented and number.isdigit() else name


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def variable_paths(model: Any) -> dict[str, Any]:
    """Returns all weights of `model` by structural path, the gates of adapters left out."""
    return {path: variable for path, variable in _own_variables(model) if not path.endswith("/gate") and path != "gate"}


def _own_variables(model: Any) -> Iterator[tuple[str, Any]]:
    taken: dict[str, int] = {}
    for path, layer in [("", model), *walk(model)]:
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            name = _join(path, variable.name)
            count = taken[name] = taken.get(name, 0) + 1
            yield (name if count == 1 else f"{name}_{count - 1}"), variable


def random_states(model: Any) -> dict[str, Any]:
    """Returns the state variables of all seed generators of `model` by structural path."""
    return {
        _join(path, f"seed_generator_{index}"): generator.state
        for path, layer in [("", model), *walk(model)]
        for index, generator in enumerate(layer._seed_generators)
    }


@dataclass(frozen=True)
class Layout:
    """A model as methods see it.

    Attributes:
        model: The model.
        layers: Every layer by structural path; an adapter stands for its base.
        family: The encoder family whose backbone is in the model, or `None`.
        backbone: Path of that backbone ("" where the model itself is one).
    """

    model: Any
    layers: dict[str, Any]
    family: Family | None
    backbone: str

    @classmethod
    def of(cls, model: Any) -> Layout:
        layers: dict[str, Any] = {}
        for path, layer in walk(model):
            layers.setdefault(path, layer)
        for path, layer in [("", model), *layers.items()]:
            family = _family_of(layer)
            if family is not None:
                return cls(model, layers, family, path)
        return cls(model, layers, None, "")

    @cached_property
    def variables(self) -> dict[str, Any]:
        """Every weight that is meant to be trained, by structural path."""
        trainable = {id(v) for _, layer in [("", self.model), *walk(self.model)] for v in layer._trainable_variables}
        return {path: v for path, v in variable_paths(self.model).items() if id(v) in trainable}

    def near(self, pattern: str, count: int = 3) -> str:
        """Returns the paths of layers with weights that look most like `pattern`, for an error message."""
        paths = sorted({path.rpartition("/")[0] for path in self.variables})
        wanted = pattern.rpartition("/")[2]
        ranked = sorted(paths, key=lambda path: -difflib.SequenceMatcher(None, wanted, path.rpartition("/")[2]).ratio())
        return ", ".join(ranked[:count])


def _family_of(layer: Any) -> Family | None:
    """Reads the family off a backbone's class or, for a part of a backbone, off the name it carries."""
    by_class = {family.backbone: family for family in FAMILIES.values()}
    for ancestor in type(layer).__mro__:  # the nearest first: XLM-RoBERTa's class derives from RoBERTa's
        if ancestor.__name__ in by_class:
            return by_class[ancestor.__name__]
    return next((f for f in FAMILIES.values() if _component(layer.name, layer) == backbone_name(f)), None)


def backbone_name(family: Family) -> str:
    """Returns the name by which a plain model is known to be, or to be part of, a backbone of a family."""
    return to_snake_case(family.backbone)


def build_in_place(layer: Any, like: Any) -> None:
    """Builds a layer that wraps or replaces a built one under that layer's name scopes, so that no paths collide."""
    with ExitStack() as scopes:
        for name in (like.path or "").split("/")[:-1]:
            scopes.enter_context(keras.name_scope(name))
        layer.build((like.get_build_config() or {}).get("input_shape"))


def replace_layer(model: Any, old: Any, new: Any) -> None:
    """Lets `new` stand wherever `old` stands in `model`: as a sublayer and in every Functional graph, in the same
    order.

    Exactly undone by calling it with the layers exchanged.
    """
    for node in old._inbound_nodes:
        node.operation = new
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(operation=new)
    new._inbound_nodes, old._inbound_nodes = old._inbound_nodes, []
    new._outbound_nodes, old._outbound_nodes = old._outbound_nodes, []
    for parent in [model, *(layer for _, layer in walk(model))]:
        if parent is new or parent is old or not any(child is old for child in parent._layers):
            continue
        parent._tracker.stored_ids["layers"].discard(id(old))
        parent._tracker.stored_ids["layers"].add(id(new))
        # Covers attributes, lists of layers, the tracker's own store and the operations of a Functional graph.
        for name, value in list(vars(parent).items()):
            if value is old:
                vars(parent)[name] = new
            else:
                _exchange(value, old, new)


def _exchange(container: Any, old: Any, new: Any) -> None:
    if isinstance(container, list):
        for index, value in enumerate(container):
            if value is old:
                list.__setitem__(container, index, new)
            else:
                _exchange(value, old, new)
    elif isinstance(container, dict):
        for key, value in container.items():
            if value is old:
                dict.__setitem__(container, key, new)
            else:
                _exchange(value, old, new)


def release(layer: Any) -> None:
    """Gives up the memory of a layer's own variables; each has a value again once one is assigned."""

    def released(*args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            f"the weights of layer {layer.path} were quantised; what holds them now is at its place in the model."
        )

    for variable in layer.weights:
        variable._value, variable._initializer = None, released


@dataclass(frozen=True)
class TrainableFlags:
    """The `trainable` flags of a model's layers and variables at one moment."""

    layers: tuple[tuple[Any, bool], ...]
    variables: tuple[tuple[Any, bool], ...]

    @classmethod
    def of(cls, model: Any) -> TrainableFlags:
        layers = [model, *(layer for _, layer in walk(model))]
        own = [v for layer in layers for v in layer._trainable_variables]
        return cls(
            tuple((layer, layer._trainable) for layer in layers),
            tuple((variable, variable.trainable) for variable in own),
        )

    def restore(self) -> None:
        for layer, flag in self.layers:
            layer._trainable = flag
        for variable, flag in self.variables:
            variable.trainable = flag


def set_trainable(model: Any, trained: set[int]) -> None:
    """Makes exactly the variables with these ids trainable."""
    for layer in [model, *(layer for _, layer in walk(model))]:
        layer._trainable = True
        for variable in layer._trainable_variables:
            variable.trainable = id(variable) in trained


_COMPILATION = (
    "compiled",
    "optimizer",
    "loss",
    "_compile_loss",
    "_compile_metrics",
    "_loss_tracker",
    "train_function",
    "test_function",
    "predict_function",
)


def clear_compilation(model: Any) -> None:
    """Forgets optimiser, loss and compiled functions of `model`."""
    for name in _COMPILATION:
        vars(model)[name] = False if name == "compiled" else None


def clear_functions(model: Any) -> None:
    """Forgets what `model` compiled, so that it follows changes of its layers; optimiser and loss stay."""
    for name in ("train_function", "test_function", "predict_function"):
        vars(model)[name] = None


@contextmanager
def uncompiled(model: Any) -> Iterator[None]:
    """Within the context `model` counts as never compiled, so that saving it leaves the optimiser out."""
    compilation = {name: vars(model).get(name) for name in _COMPILATION}
    clear_compilation(model)
    try:
        yield
    finally:
        vars(model).update(compilation)

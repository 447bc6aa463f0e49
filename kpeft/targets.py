"""From what users call a layer ("query", "all-linear", a regular expression) to the layers of one model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from kpeft.families import HEADS, Family, Place
from kpeft.sites import Layout

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class NamedLayer:
    """A layer of a model that its family has a name for.

    Attributes:
        place: The family's entry.
        hugging_face: Its module name in Hugging Face's model, the layer's number filled in.
    """

    place: Place
    hugging_face: str


def named_layers(layout: Layout) -> dict[str, NamedLayer]:
    """Returns the layers that the model's family names, by structural path; none for a model of no known family."""
    if layout.family is None:
        return {}
    named = {}
    outside = layout.backbone.rpartition("/")[0]
    for place in layout.family.places:
        pattern = _template(place.keras, outside if place.in_head else layout.backbone)
        for path in layout.layers:
            match = pattern.fullmatch(path)
            if match:
                named[path] = NamedLayer(place, place.hugging_face.format(**match.groupdict()))
    return named


def _template(path: str, parent: str) -> re.Pattern[str]:
    path = f"{parent}/{path}" if parent else path
    return re.compile(re.escape(path).replace(r"\{L\}", r"(?P<L>\d+)").replace(r"\{I\}", r"(?P<I>\d+)"))


def layer_numbers(layout: Layout) -> dict[str, int]:
    """Returns the transformer layer's number for every layer that is, or is inside, a numbered one.

    Raises:
        ValueError: If the model holds no encoder of a known family.
    """
    pattern = _template(_known_family(layout).layer, layout.backbone).pattern
    inside = re.compile(pattern + "(?:/.*)?")
    matches = {path: inside.fullmatch(path) for path in layout.layers}
    return {path: int(match["L"]) for path, match in matches.items() if match}


def _known_family(layout: Layout) -> Family:
    if layout.family is None:
        raise ValueError(
            f"numbered transformer layers need a KerasHub encoder, and model {layout.model.name!r} holds none."
        )
    return layout.family


def head_layers(layout: Layout, which: bool | str = True) -> set[str]:
    """Returns the paths of the classification head's layers.

    Around a known encoder that is every layer with weights outside of it, in any other model the last layer with
    weights.

    Args:
        layout: The model.
        which: Those that a method trains whole, as its `train_head` says.

    Raises:
        ValueError: If `which` is no such value.
    """
    if which not in HEADS:
        raise ValueError(f"train_head must be true, false, logits or pooler. Received: train_head={which!r}")
    weighted = list(dict.fromkeys(path.rpartition("/")[0] for path in layout.variables))
    if layout.family is None:
        head = weighted[-1:]
    elif not layout.backbone:
        head = []
    else:
        head = [path for path in weighted if path != layout.backbone and not path.startswith(layout.backbone + "/")]
    if which == "logits":
        return set(head[-1:])
    if which == "pooler":
        return {*head, *(path for path, layer in named_layers(layout).items() if layer.place.term == "pooler")}
    return set(head) if which else set()


def is_linear(layer: Any) -> bool:
    """Whether a layer is a `Dense` or an `EinsumDense`."""
    return isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)


def resolve(layout: Layout, targets: str | Iterable[str], *, option: str = "targets") -> list[str]:
    """Returns the paths that `targets` stand for, in the model's order.

    Args:
        layout: The model.
        targets: One or several of: a name of the model's family; `"all-linear"`, every `Dense` and `EinsumDense`
            outside the head; else a regular expression that must match a whole structural path.
        option: What to call them in an error.

    Raises:
        ValueError: If there is none, or one of them matches nothing; the message lists near paths and the family's
            names.
    """
    if not targets:
        raise ValueError(f"{option} names no layer: give it one, or leave it out. Received: {option}={targets!r}")
    named = named_layers(layout)
    found: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        matched = _resolve_one(layout, named, target, option)
        if not matched:
            names = ", ".join([*(layout.family.terms if layout.family else ()), ALL_LINEAR])
            raise ValueError(
                f"{option}={target!r} matches no layer of model {layout.model.name!r}. Names it knows: {names}. "
                f"Layers with a path like it: {layout.near(target)}"
            )
        found |= matched
    return [path for path in layout.layers if path in found]


def resolve_linear(layout: Layout, targets: str | Iterable[str]) -> list[str]:
    """Returns what `resolve` does.

    Raises:
        ValueError: If one of them matches nothing, or a layer that is not linear.
    """
    paths = resolve(layout, targets)
    for path in paths:
        if not is_linear(layout.layers[path]):
            kind = type(layout.layers[path]).__name__
            raise ValueError(f"targets must be Dense and EinsumDense layers, but {path} is a {kind}.")
    return paths


def _resolve_one(layout: Layout, named: dict[str, NamedLayer], target: str, option: str) -> set[str]:
    if target == ALL_LINEAR:
        head = head_layers(layout)
        return {path for path, layer in layout.layers.items() if is_linear(layer) and path not in head}
    if layout.family is not None and target in layout.family.terms:
        return {path for path, layer in named.items() if layer.place.term == target}
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise ValueError(f"{option}={target!r} is neither a known name nor a regular expression: {error}") from error
    return {path for path in layout.layers if pattern.fullmatch(path)}

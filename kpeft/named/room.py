"""One adaptation with room for several adapters: each becomes a set of values for the same variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import keras
import numpy as np

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.lora import LoRALayer
from kpeft.methods.method import Method, Plan
from kpeft.named.placed import Placed, Values
from kpeft.placing import adapt
from kpeft.sites import Layout

# What layers at one site may differ in: what only matters in training, and for LoRA what `Room` makes up for.
_FREE = {"base", "dropout", "dtype", "merged", "name", "seed", "trainable"}
_FREE_IN_LORA = {"alpha", "rank", "use_rslora"}
_SCALED = ("lora_b", "lora_bias")
"""LoRA's variables that the scale s = alpha / r multiplies."""


@dataclass(frozen=True, kw_only=True)
class _Union(Method):
    """Wraps what any of several adaptations wraps, at the largest rank, and trains all that they change."""

    name: ClassVar[str] = "named adapters"
    summary: ClassVar[str] = "what several methods do"

    members: tuple[Placed, ...]

    def trained(self, layout: Layout) -> set[str]:
        return {path for member in self.members for path in member.base}

    def plan(self, layout: Layout) -> Plan:
        largest: dict[str, tuple[int, int]] = {}
        for number, member in enumerate(self.members):
            for path, layer in member.adaptation.adapters.items():
                rank = layer.rank if isinstance(layer, LoRALayer) else 0
                largest[path] = max(largest.get(path, (0, 0)), (rank, number))
        wraps = [member.adaptation.method.plan(layout).wraps for member in self.members]
        chosen = {path: wraps[number][path] for path, (_, number) in largest.items()}
        return Plan(chosen, frozenset(self.trained(layout)), {})


@final
class Room:
    """What several adapters have in common, on the model and frozen.

    An adapter of a smaller rank is padded: columns of A and rows of B that are zero add nothing. Another scale is
    folded into B. Where an adapter wraps no layer the gate is closed; what it does not train has the model's own value.

    Args:
        model: A model without adapters; its compilation is cleared.
        members: The adapters, off the model.

    Attributes:
        placed: The adaptation, on the model.
        variables: Those that differ between adapters, by structural path.
    """

    def __init__(self, model: Any, members: Sequence[Placed]) -> None:
        self.placed = Placed(model, lambda plain: adapt(plain, _Union(members=tuple(members))))
        self.placed.freeze()
        self._layers = self.placed.adaptation.adapters
        self._start: Values = {**self.placed.kept, **self.placed.base}
        gates = {_gate(path): layer.gate for path, layer in self._layers.items()}
        self.variables: Mapping[str, Any] = {**self.placed.variables, **gates}

    def holds(self, member: Placed) -> bool:
        """Whether there is room for an adapter."""
        return all(
            path in self._start and all(np.less_equal(variable.shape, self._start[path].shape))
            for path, variable in member.variables.items()
        )

    def values(self, member: Placed | None) -> Values:
        """Returns what `variables` hold when an adapter is in use, or with `None` the model without one."""
        own = member.kept if member else {}
        layers: Mapping[str, AdapterLayer] = member.adaptation.adapters if member else {}
        values = {
            path: _padded(own[path], start.shape) if path in own else start for path, start in self._start.items()
        }
        for path, layer in self._layers.items():
            theirs = layers.get(path)
            values[_gate(path)] = np.array(theirs is not None, np.float32)
            if isinstance(layer, LoRALayer) and isinstance(theirs, LoRALayer):
                for scaled in {f"{path}/{name}" for name in _SCALED} & values.keys():
                    values[scaled] = values[scaled] * (theirs.scaling / layer.scaling)
        return values

    def use(self, member: Placed | None) -> None:
        """Lets the model compute what it does with an adapter, or with none."""
        for path, value in self.values(member).items():
            self.variables[path].assign(value)


def check_alike(first: Placed, other: Placed) -> None:
    """Checks that two adapters can take turns on one model.

    Raises:
        ValueError: If they are of two methods, or their layers at one site compute different things.
    """
    methods = [type(placed.adaptation.method) for placed in (first, other)]
    if methods[0] is not methods[1]:
        raise ValueError(
            f"adapters of one model are of one method, here {methods[0].name!r}. Received: one of {methods[1].name!r}"
        )
    layers, others = first.adaptation.adapters, other.adaptation.adapters
    for path in (path for path in layers if path in others):
        fixed, received = _fixed(layers[path]), _fixed(others[path])
        for name in sorted(fixed.keys() | received.keys()):
            if fixed.get(name) != received.get(name):
                raise ValueError(
                    f"adapters of one model adapt a layer in the same way, and {path} has {name}={fixed.get(name)!r}. "
                    f"Received: {name}={received.get(name)!r}"
                )
    if layers.keys() != others.keys() and any(_shares_layers(layer) for layer in layers.values()):
        raise ValueError(
            f"adapters of method {methods[0].name!r} share weights between layers: those of one model adapt the same "
            f"layers. Received: {len(others)} layers where the others have {len(layers)}"
        )


def _fixed(layer: Any) -> dict[str, Any]:
    """What layers must have in common to take each other's values."""
    free = _FREE | _FREE_IN_LORA if isinstance(layer, LoRALayer) else _FREE
    config = {name: value for name, value in layer.get_config().items() if name not in free}
    return {
        "class": type(layer).__name__,
        **{name: _fixed(value) if isinstance(value, keras.Layer) else value for name, value in config.items()},
    }


def _shares_layers(layer: AdapterLayer) -> bool:
    return any(isinstance(value, keras.Layer) for value in layer.get_config().values())


def _gate(path: str) -> str:
    return f"{path}/gate"


def _padded(value: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """`value` with zeros after it."""
    whole = np.zeros(shape, value.dtype)
    whole[tuple(slice(size) for size in value.shape)] = value
    return whole

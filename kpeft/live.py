"""Which models carry a method at the moment, so that no second one is put on layers that a first one trains or froze.

Two methods that are put on one after the other know nothing of each other: what the second freezes the first would no
longer train, `detach` of the first would bring back weights that the second has learned, and a layer that the second
wraps would change in each model that shares it. A union puts several on at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from kpeft.sites import TrainableFlags, walk


@dataclass(frozen=True)
class _Held:
    """Layers under one adaptation, as long as they live: a merged QLoRA adaptation that is dropped takes its with it.

    Attributes:
        method: The method's name.
        own: Those that are trained or changed, the model itself among them.
        shared: Those of a lengthened model that belong to the model it was made of, and are only frozen.
        flags: The `trainable` flags that the latter had.
    """

    method: str
    own: WeakSet[Any]
    shared: WeakSet[Any] = field(default_factory=WeakSet)
    flags: TrainableFlags | None = None


_held: WeakKeyDictionary[Any, _Held] = WeakKeyDictionary()


def hold(model: Any, method: str) -> None:
    """Notes that a model carries a method."""
    _held[model] = _Held(method, _layers(model))


def hold_lengthened(model: Any, method: str, original: Any, flags: TrainableFlags) -> None:
    """Notes that a method made a model around the layers of another, whose flags were these."""
    everything, shared = _layers(model), _layers(original)
    _held[model] = _Held(method, everything - shared, everything & shared, flags)


def let_go(model: Any) -> None:
    """Notes that a model carries no method any more."""
    _held.pop(model, None)


def check_free(model: Any, *, lengthening: bool) -> None:
    """Checks that a method may be put on a model.

    Args:
        model: The model.
        lengthening: Whether the method makes a model around the layers of this one and only freezes them. Several such
            models may share them.

    Raises:
        ValueError: If layers of the model are under a method already.
    """
    layers = _layers(model)
    for held in _held.values():
        if layers & held.own or (layers & held.shared and not lengthening):
            raise ValueError(
                f"layers of model {model.name!r} are under method {held.method} already: call detach() of that "
                "adaptation first, after merge() if what it learned is to stay; or put several methods on at once, "
                "such as LoRA() + BitFit()."
            )


def flags_before(model: Any) -> TrainableFlags | None:
    """Returns the flags of a model before lengthened ones froze its layers; `None` if none shares them now."""
    layers = _layers(model)
    return next((held.flags for held in _held.values() if layers & held.shared), None)


def _layers(model: Any) -> WeakSet[Any]:
    """The model and its layers with variables."""
    weighted = (layer for _, layer in walk(model) if layer._trainable_variables or layer._non_trainable_variables)
    return WeakSet([model, *weighted])

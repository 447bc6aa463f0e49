"""An adaptation that goes off its model and on again, while what is compiled for the model stays."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters import adapter_method, load_adapter, save_adapter
from kpeft.live import hold, let_go
from kpeft.methods import Method
from kpeft.placing import adapt
from kpeft.sites import Layout, TrainableFlags, replace_layer, set_trainable, variable_paths

Values = Mapping[str, np.ndarray[Any, Any]]


@final
class Placed:
    """An adaptation, with all that it brings to its model and changes of it.

    Compiled functions go by a model's layers and variables: they stay good for whenever those are what they were.

    Args:
        model: A model without adapters.
        make: Puts the adaptation on it, or raises ValueError and leaves it as it was.

    Attributes:
        adaptation: The adaptation; it is on the model.
        variables: By structural path, the variables that it brings, trains or changes.
        base: What those of them that are the model's own hold without it.
        kept: What they hold when it is put on, in host memory.

    Raises:
        ValueError: If `make` raises it, or makes a model of its own.
    """

    def __init__(self, model: Any, make: Callable[[Any], Adaptation]) -> None:
        self._off = TrainableFlags.of(model)
        before = {path: variable.value for path, variable in variable_paths(model).items()}
        self.adaptation = make(model)
        after = variable_paths(model)
        if self.adaptation.model is not model or not before.keys() <= after.keys():
            self.adaptation.detach()
            raise ValueError(
                f"method {self.adaptation.method.name!r} needs a model of its own and cannot share one with others."
            )
        # JAX's arrays do not change: a variable that still holds the same one has not been assigned.
        self.variables = {
            path: variable
            for path, variable in after.items()
            if variable.trainable or path not in before or variable.value is not before[path]
        }
        self.base: Values = {path: _copy(before[path]) for path in self.variables if path in before}
        self._on = TrainableFlags.of(model)
        self.keep()

    def freeze(self) -> None:
        """Lets nothing of the model be trained while the adaptation is on it."""
        set_trainable(self.adaptation.model, set())
        self._on = TrainableFlags.of(self.adaptation.model)

    def keep(self) -> None:
        """Keeps what the variables hold now."""
        self.kept: Values = {path: _copy(variable.value) for path, variable in self.variables.items()}

    def take_off(self) -> None:
        """Leaves the model as it was before, bit for bit."""
        self._assign(self.base)
        for adapter in reversed(self.adaptation.adapters.values()):
            replace_layer(self.adaptation.model, adapter, adapter.base)
        self._off.restore()
        let_go(self.adaptation.model)

    def put_on(self) -> None:
        """Puts the adaptation on the model again, as it was kept."""
        for adapter in self.adaptation.adapters.values():
            replace_layer(self.adaptation.model, adapter.base, adapter)
        self._on.restore()
        self._assign(self.kept)
        hold(self.adaptation.model, self.adaptation.method.name)

    @contextmanager
    def on(self) -> Iterator[Adaptation]:
        """Within the context the adaptation is on the model, which has no other."""
        self.put_on()
        try:
            yield self.adaptation
        finally:
            self.take_off()

    def _assign(self, values: Values) -> None:
        for path, value in values.items():
            self.variables[path].assign(value)


def place(model: Any, adapter: str | Path | Method | Adaptation, seed: int) -> Placed:
    """Puts an adapter on a model.

    Args:
        model: A model without adapters.
        adapter: Where a saved adapter is, a method, or the adaptation of another model.
        seed: Where a method's new weights start.

    Raises:
        ValueError: If the adapter does not fit the model, which is then as it was.
    """
    if isinstance(adapter, Method):
        _check_keeps_weights(model, adapter)
        return Placed(model, lambda plain: adapt(plain, adapter, seed=seed))
    if isinstance(adapter, Adaptation):
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(adapter, folder)
            return place(model, folder, seed)
    _check_keeps_weights(model, adapter_method(model, adapter))
    return Placed(model, lambda plain: load_adapter(plain, adapter))


def _check_keeps_weights(model: Any, method: Method) -> None:
    if method.quantizes(Layout.of(model)):
        raise ValueError(
            f"method {method.name!r} gives up the model's own weights, which named adapters go back to: put it on "
            "a model of its own."
        )


def _copy(value: Any) -> np.ndarray[Any, Any]:
    return np.array(ops.convert_to_numpy(value))

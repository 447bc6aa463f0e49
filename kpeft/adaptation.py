"""A model with a method on it: count, merge, save, and take the method off again."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kpeft.files import replacing
from kpeft.graphs import forget_calls
from kpeft.layers.adapter_layer import AdapterLayer, MergeableAdapter
from kpeft.live import flags_before, let_go
from kpeft.methods.method import Method, RankBudget, Rate
from kpeft.quantized_model import QuantizedLayers
from kpeft.sites import (
    Layout,
    TrainableFlags,
    clear_compilation,
    clear_functions,
    replace_layer,
    uncompiled,
    variable_paths,
)

logger = logging.getLogger("kpeft")


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of scalars.

    Attributes:
        trainable: Those that training moves: the adapters', and what the method trains of the model itself.
        total: All of the model's and the adapters'.
    """

    trainable: int
    total: int


class Adaptation:
    """A model with a method on it; made by `adapt`.

    Attributes:
        model: The adapted model.
        method: The method.
        adapters: The adapter layers by structural path; empty for selective methods.
        merged: Whether what was learned is folded into the model.
    """

    def __init__(
        self,
        model: Any,
        method: Method,
        adapters: Mapping[str, AdapterLayer],
        flags: TrainableFlags,
        trained: Iterable[str],
        quantized: QuantizedLayers,
        original: Any = None,
    ) -> None:
        self.model = model
        self._original = model if original is None else original
        self.method = method
        self.adapters = dict(adapters)
        self.merged = False
        self._detached = False
        self._flags = flags
        self._quantized = quantized
        self._start = self._values(trained)

    def trained_variables(self) -> dict[str, Any]:
        """Returns every variable that training moves, by structural path: what an adapter file holds."""
        return {path: v for path, v in variable_paths(self.model).items() if v.trainable}

    def start_values(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns what the trained variables of the model itself held before `adapt`, by structural path."""
        return dict(self._start)

    def rates(self) -> dict[str, Rate]:
        """Returns, by path, the rates of variables that the method trains faster, slower or later than others.

        `kpeft.run` and `kpeft.training.train` follow them; an optimiser of your own knows nothing of them.
        """
        return dict(self.method.rates(Layout.of(self.model)))

    def budget(self) -> RankBudget | None:
        """Returns what the method drops while it trains, if anything.

        `kpeft.run` and `kpeft.training.train` follow it. An optimiser of your own drops nothing, and adds nothing to
        the loss.
        """
        return self.method.budget(Layout.of(self.model))

    def parameter_counts(self) -> ParameterCounts:
        """Counts trainable and all parameters."""
        sizes = [(math.prod(v.shape), v.trainable) for v in variable_paths(self.model).values()]
        hidden = 0 if self.merged else self._quantized.hidden_parameters()
        total = sum(size for size, _ in sizes) + hidden
        return ParameterCounts(sum(size for size, trainable in sizes if trainable), total)

    def merge(self, *, safe: bool = False) -> None:
        """Folds what was learned into the model: it computes the same, with less work, and `detach` will keep it.

        Selective methods have nothing to fold; merging only makes `detach` keep what they trained. A quantised model
        becomes float32 here, with the values that its codes stand for.

        Args:
            safe: Check that every merged layer holds finite numbers only. If one does not, the model is bit for bit
                what it was.

        Raises:
            ValueError: If the model is merged already, an adapter cannot be folded into a kernel, or with `safe` a
                merged layer holds a number that is not finite.
        """
        if self.merged:
            raise ValueError("the adaptation is merged already; call unmerge() first.")
        mergeable, merged = self._mergeable(), list[MergeableAdapter]()
        self._restore_quantized()
        try:
            for path, adapter in mergeable.items():
                adapter.merge()
                merged.append(adapter)
                if safe and not all(np.isfinite(ops.convert_to_numpy(v.value)).all() for v in adapter.base.weights):
                    raise ValueError(f"merging layer {path} gives numbers that are not finite; nothing was merged.")
        except BaseException:  # KeyboardInterrupt, too
            for adapter in merged:
                adapter.unmerge()
            self._place_quantized()
            raise
        self.merged = True

    def unmerge(self) -> None:
        """Takes the changes out of the kernels again, bit for bit.

        Raises:
            ValueError: If the model is not merged.
        """
        if not self.merged:
            raise ValueError("the adaptation is not merged; there is nothing to unmerge.")
        for adapter in self._mergeable().values():
            adapter.unmerge()
        self._place_quantized()
        self.merged = False

    def _mergeable(self) -> dict[str, MergeableAdapter]:
        mergeable = {}
        for path, adapter in self.adapters.items():
            if not isinstance(adapter, MergeableAdapter):
                raise ValueError(
                    f"method {self.method.name!r} has layers that cannot be merged into a kernel; keep what "
                    "was learned with save_adapter."
                )
            adapter.check_mergeable()
            mergeable[path] = adapter
        return mergeable

    def detach(self) -> Any:
        """Takes the method off the model and clears the model's compilation.

        A merged model keeps what was learned; any other is bit for bit what it was before `adapt`, but for weights that
        were quantised: they are float32 again, with the values that their codes stand for. Trainable flags are as
        before `adapt` either way.

        Returns:
            The model that the method was put on; of a method that made a new model that is another than `model`, which
            is then of no more use.

        Raises:
            ValueError: If it was detached before.
        """
        if self._detached:
            raise ValueError(f"method {self.method.name!r} is off the model already: detach() was called before.")
        self._detached = True
        let_go(self.model)
        if self._original is not self.model:
            forget_calls(self.model, self._original)
            if flags_before(self._original) is None:  # else another lengthened model needs its layers frozen
                self._flags.restore()
            return self._original
        if not self.merged:
            self._assign(self._start)
            for adapter in self.adapters.values():
                adapter.disable()
        self._show_bases()
        if not self.merged:
            self._restore_quantized()
        self._flags.restore()
        self.adapters, self._quantized = {}, QuantizedLayers({})
        clear_compilation(self.model)
        return self.model

    @contextmanager
    def disabled(self) -> Iterator[Any]:
        """Within the context the model computes what it did before `adapt`, in functions that are compiled already,
        too; a quantised model computes what it does without what was learned.

        Meant for prediction: what is trained within it is lost.

        Yields:
            The model.
        """
        merged = self.merged
        if merged:
            self.unmerge()
        trained = self._values(self._start)
        self._assign(self._start)
        for adapter in self.adapters.values():
            adapter.disable()
        try:
            yield self.model
        finally:
            for adapter in self.adapters.values():
                adapter.enable()
            self._assign(trained)
            if merged:
                self.merge()

    def save_model(self, path: str | Path) -> None:
        """Writes the merged model, adapters gone, as a `.keras` file that reloads to the same outputs.

        The model itself is afterwards what it was. (A plain `model.save` of an adapted KerasHub model cannot be opened
        again: KerasHub's layers rebuild their own sublayers and know of no adapters.)

        Args:
            path: File name, ending in `.keras`.

        Raises:
            ValueError: If the name does not end in `.keras`, or an adapter cannot be folded into a kernel.
        """
        path = Path(path)
        if path.suffix != ".keras":
            raise ValueError(f"save_model writes a .keras file. Received: path={str(path)!r}")
        with self.plain() as model, replacing(path) as temporary, uncompiled(model):
            model.save(temporary)

    @contextmanager
    def plain(self) -> Iterator[Any]:
        """Within the context the model is merged and has no adapters and its own trainable flags, as after `detach`.

        Meant for writing the model; it is afterwards what it was.

        Yields:
            The model.

        Raises:
            ValueError: If an adapter cannot be folded into a kernel.
        """
        merged = self.merged
        if not merged:
            self.merge()
        flags = TrainableFlags.of(self.model)
        self._show_bases()
        self._flags.restore()
        try:
            yield self.model
        finally:
            for adapter in self.adapters.values():
                replace_layer(self.model, adapter.base, adapter)
            flags.restore()
            if not merged:
                self.unmerge()

    def _show_bases(self) -> None:
        for adapter in reversed(self.adapters.values()):
            replace_layer(self.model, adapter, adapter.base)

    def _restore_quantized(self) -> None:
        if self._quantized:
            self._quantized.restore(self.model)
            clear_functions(self.model)

    def _place_quantized(self) -> None:
        if self._quantized:
            self._quantized.place(self.model)
            clear_functions(self.model)

    def _values(self, paths: Iterable[str]) -> dict[str, np.ndarray[Any, Any]]:
        variables = variable_paths(self.model)
        return {path: np.array(ops.convert_to_numpy(variables[path].value)) for path in paths}

    def _assign(self, values: Mapping[str, np.ndarray[Any, Any]]) -> None:
        variables = variable_paths(self.model)
        for path, value in values.items():
            variables[path].assign(value)

"""Rows as the frozen part of a model leaves them, computed once and kept in memory."""

from __future__ import annotations

import math
import sys
from typing import Any, final

import jax
import numpy as np
from tqdm import tqdm

from kpeft.frontier import Split
from kpeft.glue.tokens import EncodedRows
from kpeft.training.prediction import EvalBatches
from kpeft.training.timing import Timer

_BATCH = 64


@final
class FrozenPart:
    """The frozen part of a model as a function, compiled once for each shape.

    Args:
        split: The model's two parts.
    """

    def __init__(self, split: Split) -> None:
        self.lower = split.lower
        self.inputs_above = tuple(split.upper.input)

        @jax.jit
        def forward(values: list[Any], inputs: dict[str, Any]) -> dict[str, Any]:
            outputs: dict[str, Any] = self.lower.stateless_call([], values, inputs, training=False)[0]
            return outputs

        self._forward = forward
        self._compiled: dict[tuple[int, ...], Any] = {}

    def is_compiled(self, inputs: dict[str, np.ndarray]) -> bool:
        """Whether inputs of this shape have been compiled for."""
        return _shape(inputs) in self._compiled

    def compile(self, inputs: dict[str, np.ndarray]) -> None:
        """Compiles for inputs of this shape, apart from running, so that the time of each can be told."""
        self._compiled[_shape(inputs)] = self._forward.lower(self._values(), inputs).compile()

    def _values(self) -> list[Any]:
        return [variable.value for variable in self.lower.non_trainable_variables]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Features by name, shapes (batch, …) or (batch, length, …), from the model's inputs, (batch, length) each."""
        outputs = self._compiled[_shape(inputs)](self._values(), inputs)
        return {name: np.asarray(values) for name, values in outputs.items()}

    def bytes_of(self, rows: EncodedRows) -> int:
        """Memory that the features of these rows take, in bytes: rows · d · itemsize, or tokens · d · itemsize.

        The first where features are of rows, such as the first token's, the second where they are of all tokens. d is
        their width, itemsize 4 in float32 and 2 in bfloat16. Padding is not kept.
        """
        total = 0
        for tensor in self.lower.output.values():
            number = int(rows.offsets[-1]) if _of_tokens(tensor) else len(rows)
            total += number * math.prod(filter(None, tensor.shape)) * np.dtype(tensor.dtype).itemsize
        return total


@final
class FrozenRows:
    """Rows for the trained part of a model: what `EncodedRows` is for the whole model.

    Features of tokens are kept without padding, end to end as the tokens are.

    Args:
        rows: The rows.
        frozen: The part that computes their features, when they are first needed.
    """

    def __init__(self, rows: EncodedRows, frozen: FrozenPart) -> None:
        self.rows = rows
        self.labels = rows.labels
        self.lengths = rows.lengths
        self._frozen = frozen
        self._features: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, timer: Timer, *, progress: bool = False) -> None:
        """Computes the features of all rows, in batches of rows of like length.

        Args:
            timer: The time is counted as training, compilation apart.
            progress: Show progress on standard error if it takes long.
        """
        lap = timer.switch("train")
        batches = EvalBatches(self.rows, _BATCH)
        features: dict[str, np.ndarray] = {}
        every = 0.2 if sys.stderr.isatty() else 10.0
        for index in tqdm(range(len(batches)), "frozen part", disable=not progress, delay=10, mininterval=every):
            (inputs,) = batches[index]
            if not self._frozen.is_compiled(inputs):
                timer.switch("compile")
                self._frozen.compile(inputs)
                timer.switch("train")
            indices = batches.order[index * _BATCH : (index + 1) * _BATCH]
            for name, values in self._frozen(inputs).items():
                if name not in features:
                    features[name] = self._empty(name, values)
                self._put(name, features[name], indices, values)
        self._features = features
        timer.switch(lap)

    def batch(self, indices: Any, length: int, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """Returns the named rows as the trained part's inputs; see `EncodedRows.batch`."""
        if not self._features:
            self.fill(Timer())
        rows = np.asarray(indices, dtype=np.int64)
        tokens = self.rows.batch(rows, length, batch_size)
        batch = {name: tokens[name] for name in self._frozen.inputs_above if name in tokens}
        size = len(rows) if batch_size is None else batch_size
        for name, kept in self._features.items():
            if self._of_tokens(name):
                batch[name] = np.zeros((size, length, *kept.shape[1:]), kept.dtype)
                for target, row in zip(batch[name], rows, strict=False):
                    target[: self.lengths[row]] = kept[self._positions(row)]
            else:
                batch[name] = np.zeros((size, *kept.shape[1:]), kept.dtype)
                batch[name][: len(rows)] = kept[rows]
        return batch

    def _of_tokens(self, name: str) -> bool:
        return _of_tokens(self._frozen.lower.output[name])

    def _positions(self, row: int) -> slice:
        return slice(self.rows.offsets[row], self.rows.offsets[row + 1])

    def _empty(self, name: str, values: np.ndarray) -> np.ndarray:
        if self._of_tokens(name):
            return np.empty((self.rows.offsets[-1], *values.shape[2:]), values.dtype)
        return np.empty((len(self), *values.shape[1:]), values.dtype)

    def _put(self, name: str, kept: np.ndarray, indices: np.ndarray, values: np.ndarray) -> None:
        if not self._of_tokens(name):
            kept[indices] = values[: len(indices)]
            return
        for row, value in zip(indices, values, strict=False):
            kept[self._positions(row)] = value[: self.lengths[row]]


def _shape(inputs: dict[str, np.ndarray]) -> tuple[int, ...]:
    return next(iter(inputs.values())).shape


def _of_tokens(tensor: Any) -> bool:
    """Whether a feature has an entry for each token, not one for each row."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None

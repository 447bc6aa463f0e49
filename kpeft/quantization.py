"""Matrices in 8 or 4 bits: int8, int4 and the NormalFloat of QLoRA (Dettmers et al., 2023,
https://arxiv.org/abs/2305.14314).

Encoding is numpy on the host, decoding is `keras.ops`, so that it can stand inside a compiled step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, final

import keras
import numpy as np
from keras import ops

Array = np.ndarray[Any, Any]
Spec = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of an array that is stored."""

_SCALES_BLOCK = 256  # scales that share one scale of their own in double quantisation


def normal_float_levels() -> Array:
    """Returns the 16 levels of NF4 in [-1, 1], float32: quantiles of the normal distribution, 0 among them.

    Eight quantiles of the positive half and seven of the negative, evenly spaced in probability from 1/2 to the mean of
    1 - 1/30 and 1 - 1/32, divided by the largest.
    """
    last = (1 - 1 / 30 + 1 - 1 / 32) / 2
    positive = [NormalDist().inv_cdf(p) for p in np.linspace(last, 0.5, 9)[:-1]]
    negative = [-NormalDist().inv_cdf(p) for p in np.linspace(last, 0.5, 8)[:-1]]
    return (np.sort([*negative, 0.0, *positive]) / positive[0]).astype("float32")


@cache
def levels(name: str) -> Array:
    """Returns the values that 4-bit codes stand for, in ascending order: 16 of `"nf4"`, 15 of `"int4"`, as 0 is one."""
    return normal_float_levels() if name == "nf4" else np.arange(-7, 8, dtype="float32") / 7


class Form(ABC):
    """How one float32 matrix is stored.

    Attributes:
        shape: (rows, columns) of the matrix.
    """

    shape: tuple[int, int]

    @abstractmethod
    def specs(self) -> list[Spec]:
        """Returns the arrays that are stored, in the order of the methods below."""

    @abstractmethod
    def encode(self, matrix: Array) -> list[Array]:
        """Returns the arrays for a matrix."""

    @abstractmethod
    def matrix(self, stored: Sequence[Any]) -> Any:
        """Returns the matrix, float32, but for the factor `scale`; codes that are whole numbers may stay so."""

    def scale(self, stored: Sequence[Any]) -> Any:
        """Returns what `matrix` has to be multiplied by; broadcasts against it."""
        return 1.0

    def decode(self, stored: Sequence[Any]) -> Any:
        """Returns the matrix that is stored, float32."""
        return ops.cast(self.matrix(stored), "float32") * self.scale(stored)


@final
@dataclass(frozen=True)
class Int8(Form):
    """One byte a weight: w = q·s with q in -127…127 and one scale s, max |w| / 127, for each column or each row.

    Args:
        shape: (rows, columns).
        by_row: A scale for each row, as for tables of embeddings; else for each column, an output of a linear layer.
    """

    shape: tuple[int, int]
    by_row: bool = False

    def specs(self) -> list[Spec]:
        rows, columns = self.shape
        return [("codes", self.shape, "int8"), ("scales", (rows, 1) if self.by_row else (1, columns), "float32")]

    def encode(self, matrix: Array) -> list[Array]:
        return list(_int8(matrix, 1 if self.by_row else 0))

    def matrix(self, stored: Sequence[Any]) -> Any:
        return stored[0]

    def scale(self, stored: Sequence[Any]) -> Any:
        return stored[1]


@final
@dataclass(frozen=True)
class Blocks4(Form):
    """Half a byte a weight: w = level[q]·s, with one scale s = max |w| for each block.

    A block is `block` weights of one column: of one output of a linear layer. The last block of a column is shorter
    where `block` does not divide the rows. A byte holds the codes of rows i and i + rows/2, so that each half of the
    matrix is unpacked in one piece.

    Double quantisation keeps the scales themselves in 8 bits: ln s = t·c + m, with m the mean of all ln s, c in
    -127…127 and one float32 t for each 256 scales: 8/64 + 32/(64·256) = 0.127 bits a weight for blocks of 64. The
    logarithm keeps the relative error of every scale small, also beside a far larger one; the paper has 8-bit floats
    for that. The weights' own codes are the nearest under the scales that come back.

    Args:
        shape: (rows, columns).
        levels: `"nf4"` or `"int4"`.
        block: Weights of a block.
        double: Whether to quantise the scales, too.
    """

    shape: tuple[int, int]
    levels: str
    block: int = 64
    double: bool = True

    @property
    def _blocks(self) -> int:
        return math.ceil(self.shape[0] / self.block)

    def specs(self) -> list[Spec]:
        rows, columns = self.shape
        codes = ("codes", (math.ceil(rows / 2), columns), "uint8")
        if not self.double:
            return [codes, ("scales", (self._blocks, columns), "float32")]
        number = self._blocks * columns
        groups = (math.ceil(number / _SCALES_BLOCK),)
        return [
            codes,
            ("scales_log_codes", (number,), "int8"),
            ("scales_log_steps", groups, "float32"),
            ("scales_log_mean", (), "float32"),
        ]

    def encode(self, matrix: Array) -> list[Array]:
        rows, columns = self.shape
        padded = np.zeros((self._blocks * self.block, columns), "float32")
        padded[:rows] = matrix
        blocks = padded.reshape(self._blocks, self.block, columns)
        scales = np.abs(blocks).max(axis=1)
        stored = [scales]
        if self.double:
            stored = _eight_bits(scales)
            scales = ops.convert_to_numpy(self._scales([None, *map(ops.convert_to_tensor, stored)]))
        values = levels(self.levels)
        middles = (values[1:] + values[:-1]) / 2
        codes = np.searchsorted(middles, blocks / np.where(scales > 0, scales, 1)[:, None]).astype("uint8")
        codes = codes.reshape(-1, columns)[:rows]
        half = math.ceil(rows / 2)
        packed = codes[:half].copy()
        packed[: rows - half] |= codes[half:] << 4
        return [packed, *stored]

    def matrix(self, stored: Sequence[Any]) -> Any:
        rows, packed = self.shape[0], stored[0]
        codes = ops.concatenate([ops.bitwise_and(packed, 15), ops.right_shift(packed, 4)], axis=0)[:rows]
        values = ops.take(ops.convert_to_tensor(levels(self.levels)), ops.cast(codes, "int32"))
        scales = _spread(self._scales(stored), self.block)[:rows]
        return values * scales

    def _scales(self, stored: Sequence[Any]) -> Any:
        if not self.double:
            return stored[1]
        _, codes, steps, mean = stored
        number = self._blocks * self.shape[1]
        spread = ops.reshape(_spread(ops.expand_dims(steps, 1), _SCALES_BLOCK), (-1,))[:number]
        return ops.reshape(ops.exp(ops.cast(codes, "float32") * spread + mean), (self._blocks, self.shape[1]))


def _eight_bits(scales: Array) -> list[Array]:
    """Returns 8-bit codes of the logarithms of scales, the steps of each group and their mean; see `Blocks4`."""
    some = scales > 0  # a block of zeros stays zero under any scale
    logs = np.log(scales, where=some, out=np.zeros_like(scales))
    mean = np.float32(logs[some].mean(dtype="float64") if some.any() else 0)
    groups = np.zeros((math.ceil(scales.size / _SCALES_BLOCK), _SCALES_BLOCK), "float32")
    groups.reshape(-1)[: scales.size] = np.where(some, logs - mean, 0).reshape(-1)
    codes, steps = _int8(groups, 1)
    return [codes.reshape(-1)[: scales.size], steps[:, 0], np.asarray(mean)]


def _int8(values: Array, axis: int) -> tuple[Array, Array]:
    codes, inverse = keras.quantizers.abs_max_quantize(values, axis=axis, to_numpy=True)
    return ops.convert_to_numpy(codes), 1 / ops.convert_to_numpy(inverse)


def _spread(rows: Any, times: int) -> Any:
    """Repeats each row `times` times."""
    number, columns = rows.shape
    return ops.reshape(ops.broadcast_to(rows[:, None], (number, times, columns)), (number * times, columns))

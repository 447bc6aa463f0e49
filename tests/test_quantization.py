"""Matrices in few bits against the definitions in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.quantization import Blocks4, Form, Int8, levels, normal_float_levels

# Dettmers et al., 2023, appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
SHAPES = [(128, 3), (64, 5), (16, 7), (100, 4), (65, 2), (7, 3), (1, 2)]


def normal(shape: tuple[int, int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype("float32")


def round_trip(form: Form, matrix: Any) -> Any:
    stored = form.encode(matrix)
    assert [(tuple(a.shape), a.dtype.name) for a in stored] == [(shape, dtype) for _, shape, dtype in form.specs()]
    return keras.ops.convert_to_numpy(form.decode([keras.ops.convert_to_tensor(array) for array in stored]))


def nearest(values: Any, table: Any) -> Any:
    return table[np.abs(values[:, None] - table).argmin(1)]


def blocks_in_float64(matrix: Any, table: Any, block: int) -> tuple[Any, Any]:
    """The definition, weight by weight: nearest level of w / max |w|, times the scale. Returns weights and scales."""
    result, scales = np.zeros(matrix.shape), []
    for first in range(0, len(matrix), block):
        for column in range(matrix.shape[1]):
            weights = matrix[first : first + block, column].astype("float64")
            scales.append(np.abs(weights).max())
            result[first : first + block, column] = nearest(weights / scales[-1], table) * scales[-1]
    return result, np.array(scales)


def test_nf4_has_the_published_levels() -> None:
    np.testing.assert_allclose(normal_float_levels(), PUBLISHED, atol=1e-6)
    assert (levels("nf4")[[0, 7, 15]] == [-1, 0, 1]).all()


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_the_definition(shape: tuple[int, int], by_row: bool) -> None:
    matrix = normal(shape)
    step = np.abs(matrix.astype("float64")).max(1 if by_row else 0, keepdims=True) / 127
    # Keras adds 1e-7 to the largest weight.
    np.testing.assert_allclose(round_trip(Int8(shape, by_row), matrix), np.round(matrix / step) * step, rtol=1e-4)


@pytest.mark.parametrize("name", ["nf4", "int4"])
@pytest.mark.parametrize("block", [64, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_are_the_definition(shape: tuple[int, int], block: int, name: str) -> None:
    matrix = normal(shape)
    table = np.array(PUBLISHED) if name == "nf4" else np.arange(-7, 8) / 7
    expected, _ = blocks_in_float64(matrix, table, block)
    np.testing.assert_allclose(round_trip(Blocks4(shape, name, block, double=False), matrix), expected, atol=1e-6)


@pytest.mark.parametrize("outlier", [3.0, 100.0])
@pytest.mark.parametrize("shape", [*SHAPES, (128, 300)])
def test_double_quantisation_is_the_definition(shape: tuple[int, int], outlier: float) -> None:
    matrix = normal(shape)
    matrix[:, 0] *= outlier
    _, scales = blocks_in_float64(matrix, np.array(PUBLISHED), 64)
    logs = np.log(scales)
    centred = logs - logs.mean()
    for first in range(0, len(scales), 256):
        step = np.abs(centred[first : first + 256]).max() / 127 or 1.0
        centred[first : first + 256] = np.round(centred[first : first + 256] / step) * step
    coarse = np.exp(centred + logs.mean()).reshape(-1, shape[1])
    spread = np.repeat(coarse, 64, axis=0)[: shape[0]]
    expected = nearest((matrix / spread).ravel(), np.array(PUBLISHED)).reshape(shape) * spread
    found = round_trip(Blocks4(shape, "nf4"), matrix)
    close = np.isclose(found, expected, rtol=2e-4, atol=1e-6)
    assert close.mean() > 0.999  # a weight in the middle between two levels may go to either
    np.testing.assert_allclose(found, expected, atol=0.2 * spread.max())


def test_double_quantisation_bears_scales_of_any_size() -> None:
    matrix = normal((64, 256))
    matrix[:, 0] *= 100
    matrix[:, 1] *= 0.01
    for double in (False, True):
        decoded = round_trip(Blocks4(matrix.shape, "nf4", double=double), matrix)
        errors = np.linalg.norm(decoded - matrix, axis=0) / np.linalg.norm(matrix, axis=0)
        assert errors.max() < 0.15


def test_bits_a_weight() -> None:
    shape = (768, 3072)
    bits = {
        form: 8 * sum(np.dtype(dtype).itemsize * int(np.prod(part)) for _, part, dtype in form.specs()) / np.prod(shape)
        for form in (Int8(shape), Blocks4(shape, "nf4"), Blocks4(shape, "int4", double=False))
    }
    assert list(bits.values()) == pytest.approx([8 + 32 / 768, 4 + 0.127, 4.5], abs=1e-3)


def test_normal_float_is_nearer_to_normal_weights_than_even_levels() -> None:
    matrix = normal((1024, 64))
    error = {
        name: np.square(round_trip(Blocks4(matrix.shape, name), matrix) - matrix).mean() for name in ("nf4", "int4")
    }
    assert error["nf4"] < 0.95 * error["int4"]


@pytest.mark.parametrize("form", [Int8((128, 3)), Int8((128, 3), by_row=True), Blocks4((128, 3), "nf4")])
def test_zeros_stay_zero(form: Form) -> None:
    matrix = normal((128, 3))
    matrix[:64] = 0
    matrix[:, 1] = 0
    decoded = round_trip(form, matrix)
    assert np.isfinite(decoded).all()
    assert (decoded[matrix == 0] == 0).all()

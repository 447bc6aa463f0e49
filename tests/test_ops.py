"""kpeft.ops against the plain formulas: values and gradients, in float32 closely and in bfloat16 to its rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from kpeft import ops
from kpeft.layers.linear import linear

RNG = np.random.default_rng(0)


def random(*shape: int) -> Any:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def plain_layer_norm(x: Any, scale: Any, offset: Any) -> Any:
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(axis=-1, keepdims=True) + 1e-6) * scale + offset


def plain_attention(q: Any, k: Any, v: Any, mask: Any) -> Any:
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    scores = jnp.where(mask, scores, -1e30)
    return jnp.einsum("bhqk,bkhd->bqhd", jnp.where(mask, jax.nn.softmax(scores), 0), v)


def assert_same_with_gradients(fast: Any, plain: Any, arguments: tuple[Any, ...], tolerance: float) -> None:
    """Compares the values, and the gradients of a random linear function of them."""
    y, pull = jax.vjp(fast, *arguments)
    expected, plain_pull = jax.vjp(plain, *(a.astype(jnp.float32) for a in arguments))
    g = random(*y.shape)
    for got, wanted in zip((y, *pull(g.astype(y.dtype))), (expected, *plain_pull(g)), strict=True):
        scale = float(np.abs(wanted).max())
        np.testing.assert_allclose(np.asarray(got, np.float32) / scale, np.asarray(wanted) / scale, atol=tolerance)


DTYPES = [(jnp.float32, 2e-6), (jnp.bfloat16, 0.02)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(24, 40), (40, 8)])
def test_matmul(dtype: Any, tolerance: float, shape: tuple[int, int]) -> None:
    x, w = random(3, 5, shape[0]).astype(dtype), random(*shape)
    assert_same_with_gradients(ops.matmul, lambda x, w: x @ w, (x, w), tolerance)
    assert ops.matmul(x, w).dtype == jnp.float32


def test_bfloat16_matmul_rounds_its_operands_and_nothing_else() -> None:
    x, w, g = random(7, 300), random(300, 20), random(7, 20)
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16).astype(jnp.float32)
    g = g.astype(jnp.bfloat16).astype(jnp.float32)
    y, pull = jax.vjp(ops.matmul, x, w)
    x64, w64, g64 = (np.asarray(a, np.float64) for a in (x, w, g))
    np.testing.assert_allclose(y, x64 @ w64, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(pull(g)[1], x64.T @ g64, rtol=1e-5, atol=1e-4)


def test_the_gradient_of_a_frozen_kernel_is_not_computed() -> None:
    x, w = random(64, 96).astype(jnp.bfloat16), random(96, 96)

    def flops(*trained: int) -> float:
        loss = jax.grad(lambda x, w: ops.matmul(x, w).sum(), argnums=trained)
        analysis: Any = jax.jit(loss).lower(x, w).compile().cost_analysis()
        return float(analysis["flops"])

    assert flops(0, 1) - flops(0) > 64 * 96 * 96


def test_gelu() -> None:
    x = jnp.linspace(-6, 6, 500, dtype=jnp.float32)
    assert_same_with_gradients(ops.gelu, lambda x: jax.nn.gelu(x, approximate=False), (x,), 1e-6)
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(ops.gelu(x), exact * 0.5 * (1 + erf(exact / np.sqrt(2))), atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_layer_norm(dtype: Any, tolerance: float) -> None:
    x, scale, offset = (2 + 3 * random(4, 6, 32)).astype(dtype), 1 + random(32), random(32)
    assert_same_with_gradients(lambda *a: ops.layer_norm(*a, 1e-6), plain_layer_norm, (x, scale, offset), 2 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("lengths", [(6, 6), (5, 9)])
def test_attention(dtype: Any, tolerance: float, lengths: tuple[int, int]) -> None:
    q = random(2, lengths[0], 3, 8).astype(dtype)
    k, v = (random(2, lengths[1], 3, 8).astype(dtype) for _ in range(2))
    mask = jnp.asarray(RNG.random((2, 1, lengths[0], lengths[1])) < 0.7)
    mask = mask.at[0, :, 1].set(False)  # a query that may see nothing
    assert_same_with_gradients(
        lambda q, k, v: ops.attention(q, k, v, mask, None, 0.0),
        lambda q, k, v: plain_attention(q, k, v, mask),
        (q, k, v),
        tolerance,
    )


def test_attention_drops_probabilities_and_differentiates_what_it_did() -> None:
    q, k, v = (random(2, 6, 3, 8) for _ in range(3))
    key = jnp.array([3, 5], jnp.uint32)

    def plain(q: Any, k: Any, v: Any) -> Any:
        p = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8))
        return jnp.einsum("bhqk,bkhd->bqhd", p * ops.dropout(jnp.ones_like(p), key, 0.4, (2, 3)), v)

    assert_same_with_gradients(lambda q, k, v: ops.attention(q, k, v, None, key, 0.4), plain, (q, k, v), 2e-6)
    assert not np.allclose(plain(q, k, v), ops.attention(q, k, v, None, None, 0.0))


def test_bits_of_different_keys_are_no_shifts_of_each_other() -> None:
    first, second = (
        np.asarray(ops.random_bits(jnp.array([7, count], jnp.uint32), (64, 64))).ravel() for count in (0, 1)
    )
    assert len(np.intersect1d(first, second)) < 10
    np.testing.assert_array_equal(ops.random_bits(jnp.array([7, 0], jnp.uint32), (64 * 64,)), first)


@pytest.mark.parametrize(("shape", "lengths"), [((3, 7, 5), (1,)), ((2, 3, 7, 6), (2, 3)), ((1, 600, 2), (1,))])
def test_bits_do_not_depend_on_how_far_a_length_is_padded(shape: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    key = jnp.array([7, 1], jnp.uint32)
    narrow = np.asarray(ops.random_bits(key, shape, lengths))
    wide = np.asarray(ops.random_bits(key, tuple(n + 40 * (i in lengths) for i, n in enumerate(shape)), lengths))
    np.testing.assert_array_equal(wide[tuple(slice(n) for n in shape)], narrow)
    assert len(np.unique(wide)) > 0.999 * wide.size


def test_bits_of_a_large_batch_do_not_come_again() -> None:
    """128 rows and 16 heads of attention over 512 tokens, a part of each."""
    bits = np.asarray(ops.random_bits(jnp.array([7, 1], jnp.uint32), (128, 16, 3, 3), (2, 3)))
    assert len(np.unique(bits)) == bits.size


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_frozen_product_of_many_runs_is_one_product(dtype: Any) -> None:
    def gradient(x: Any, w: Any) -> Any:
        return jax.grad(lambda x: jnp.square(linear(x, w).astype(jnp.float32)).sum())(x)

    x, w = random(3, 2, 5, 24).astype(dtype), random(24, 40).astype(dtype)
    frozen = jax.jit(jax.vmap(gradient, in_axes=(0, None))).lower(x, w).as_text()
    assert "dot_general" in frozen
    assert "batching_dims" not in frozen
    trained = jax.jit(jax.vmap(gradient)).lower(x, jnp.stack([w] * 3)).as_text()
    assert "batching_dims" in trained

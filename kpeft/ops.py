"""What is hot in a training step, in JAX: each the plain formula with a forward and a backward pass that XLA runs well.

The plain forms stand in tests/test_ops.py, which compares values and gradients. With float32 operands nothing here
rounds to less than float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

NUMERICS = 1
"""Version of the arithmetic. It rises when the same run would come to other numbers by more than rounding, as with
other dropout bits or frozen layers treated otherwise: no run goes on from a checkpoint of another version."""

_BATCH_AND_HEAD = ((0, 1), (0, 1))
_LENGTHS = (2, 3)  # of attention's probabilities: (batch, heads, length, key length)
_LEAST_LENGTH = 512


def matmul(x: Any, w: Any) -> Any:
    """Returns x W, float32: (..., in) times (in, out), both rounded to the dtype of `x`, summed in float32.

    For bfloat16, XLA on a CPU uses the processor's matrix unit only for products of bfloat16 that accumulate in
    float32. Autodiff would multiply a float32 gradient with bfloat16 weights, which is neither, so both passes are
    written out: dx = g Wᵀ and dW = xᵀ g with g rounded like x. Where W is frozen, nobody asks for dW and it is never
    computed.
    """
    y = _matmul(x.reshape(-1, x.shape[-1]), w)
    return y.reshape(*x.shape[:-1], w.shape[-1])


@jax.custom_vjp
def _matmul(x: Any, w: Any) -> Any:
    return _dot(x, w.astype(x.dtype), 1, 0)


def _matmul_forward(x: Any, w: Any) -> Any:
    return _matmul(x, w), (x, w)


def _matmul_backward(saved: Any, g: Any) -> Any:
    x, w = saved
    # XLA would otherwise compute g, and the layers above with it, anew inside each product's transposition.
    g = jax.lax.optimization_barrier(g.astype(x.dtype))
    # The narrower factor is transposed in memory: XLA's product over rows does not use the matrix unit.
    dw = _dot(_transposed(x), g, 1, 0) if x.shape[1] <= g.shape[1] else _dot(_transposed(g), x, 1, 0).T
    return _dot(g, w.astype(x.dtype), 1, 1).astype(x.dtype), dw.astype(w.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def frozen_matmul(x: Any, stored: Any, matrix: Callable[[Any], Any]) -> Any:
    """Returns x W, float32, for a frozen W = matrix(stored) that is made anew in each pass and never kept.

    W is rounded to the dtype of `x`, as in `matmul`.

    Args:
        x: (..., in).
        stored: A list of arrays, whole numbers in the first.
        matrix: Makes W (in, out) from them; hashable.
    """
    w = matrix(_not_before(stored, x))
    y = _dot(x.reshape(-1, x.shape[-1]), w.astype(x.dtype), 1, 0)
    return y.reshape(*x.shape[:-1], w.shape[-1])


def _frozen_matmul_forward(x: Any, stored: Any, matrix: Callable[[Any], Any]) -> Any:
    return frozen_matmul(x, stored, matrix), (stored, jnp.zeros((), x.dtype))


def _frozen_matmul_backward(matrix: Callable[[Any], Any], saved: Any, g: Any) -> Any:
    stored, like = saved
    g = jax.lax.optimization_barrier(g.astype(like.dtype))
    w = matrix(_not_before(stored, g)).astype(like.dtype)
    dx = _dot(g.reshape(-1, g.shape[-1]), w, 1, 1).astype(like.dtype)
    return dx.reshape(*g.shape[:-1], -1), None


frozen_matmul.defvjp(_frozen_matmul_forward, _frozen_matmul_backward)


@jax.custom_batching.custom_vmap
def _not_before(stored: Any, x: Any) -> Any:
    """Returns `stored`, but XLA can make nothing of it before it has `x`.

    XLA on a CPU drops barriers: it would make the matrices of all layers first, and one for both passes. That no number
    is both NaN and infinite it does not know.
    """
    first = x.reshape(-1)[0]
    never = jnp.isnan(first) & jnp.isinf(first)
    return [stored[0] ^ never.astype(stored[0].dtype), *stored[1:]]


@_not_before.def_vmap
def _not_before_mapped(size: int, batched: Any, stored: Any, x: Any) -> Any:
    stored_batched, x_batched = batched
    if x_batched and not any(stored_batched):  # what all share is made once for all
        return _not_before(stored, x[0]), stored_batched
    axes = ([0 if each else None for each in stored_batched], 0 if x_batched else None)
    return jax.vmap(_not_before.fun, in_axes=axes, axis_size=size)(stored, x), [True] * len(stored)


def _transposed(x: Any) -> Any:
    """`x` with its last two axes exchanged, really: XLA would otherwise fold the exchange into the next product."""
    return jax.lax.optimization_barrier(x.swapaxes(-1, -2))


def _dot(a: Any, b: Any, i: int, j: int) -> Any:
    return jax.lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


@jax.custom_vjp
def gelu(x: Any) -> Any:
    """Returns x Φ(x), Φ by the error function. Only `x` is kept for the backward pass."""
    return jax.nn.gelu(x, approximate=False)


def _gelu_backward(x: Any, g: Any) -> Any:
    cdf = 0.5 * (1 + jax.lax.erf(x * np.float32(math.sqrt(0.5))))
    return (g * (cdf + x * jnp.exp(-0.5 * x * x) * np.float32(1 / math.sqrt(2 * math.pi))),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Any, scale: Any, offset: Any, epsilon: float) -> Any:
    """Returns x̂·scale + offset over the last axis, x̂ = (x - mean) / sqrt(variance + epsilon), computed in float32.

    The result has the dtype of `x`. Barriers keep XLA from computing it, and all layers below, anew wherever the
    result is used: they are all cheap for their size, so it would.
    """
    return _layer_norm_forward(x, scale, offset, epsilon)[0]


def _layer_norm_forward(x: Any, scale: Any, offset: Any, epsilon: float) -> Any:
    x32 = x.astype(jnp.float32)
    centred = x32 - x32.mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    normal = centred * inverse
    y, normal = jax.lax.optimization_barrier(
        ((normal * scale + offset).astype(x.dtype), normal.astype(x.dtype)),
    )
    return y, (normal, inverse, scale, offset)


def _layer_norm_backward(epsilon: float, saved: Any, g: Any) -> Any:
    normal, inverse, scale, offset = saved
    dtype, normal, g = g.dtype, normal.astype(jnp.float32), g.astype(jnp.float32)
    rows = tuple(range(g.ndim - 1))
    h = g * scale
    mean, slope = h.mean(axis=-1, keepdims=True), (h * normal).mean(axis=-1, keepdims=True)
    dx = jax.lax.optimization_barrier((inverse * (h - mean - normal * slope)).astype(dtype))
    return dx, (g * normal).sum(rows).astype(scale.dtype), g.sum(rows).astype(offset.dtype)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention(query: Any, key: Any, value: Any, mask: Any, dropout_key: Any, rate: float) -> Any:
    """Returns dropout(softmax(q kᵀ / sqrt(d) + log mask)) v with softmax in float32; 0 where a query may see no key.

    The backward pass keeps the probabilities, makes the dropout's mask again from its key, and takes the softmax's
    row sums from the output: Σ_j p_ij dp_ij = o_i · do_i (Dao et al., 2022, https://arxiv.org/abs/2205.14135).

    Args:
        query: (batch, length, heads, d); key and value with their own length.
        key: See above.
        value: See above.
        mask: Boolean, broadcasts to (batch, heads, length, key length); or `None`.
        dropout_key: uint32 (2,) for `random_bits`; not looked at when the rate is 0.
        rate: Share of the probabilities to drop.

    Returns:
        (batch, length, heads, d) in the dtype of `query`.
    """
    return _attention_forward(query, key, value, mask, dropout_key, rate)[0]


def _attention_forward(query: Any, key: Any, value: Any, mask: Any, dropout_key: Any, rate: float) -> Any:
    q, k, v = (_heads_first(t) for t in (query * (1 / math.sqrt(query.shape[-1])), key, value))
    scores = _per_head(q, k, 3, 3)
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    p = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
    if mask is not None:
        p = jnp.where(mask, p, jnp.zeros((), p.dtype))
    o = _per_head(dropout(p, dropout_key, rate, _LENGTHS), v, 3, 2)
    q, k, v, p, o = jax.lax.optimization_barrier((q, k, v, p, o))
    return _heads_first(o).astype(query.dtype), (q, k, v, p, o, dropout_key)


def _attention_backward(rate: float, saved: Any, g: Any) -> Any:
    q, k, v, p, o, dropout_key = saved
    do = _heads_first(g)
    row = (do * o).sum(axis=-1, keepdims=True)
    do = do.astype(q.dtype)
    dp = dropout(_per_head(do, v, 3, 3), dropout_key, rate, _LENGTHS)
    ds = (p * (dp - row)).astype(q.dtype)
    dq = _per_head(ds, k, 3, 2) * (1 / math.sqrt(q.shape[-1]))
    dk = _per_head(_transposed(ds), q, 3, 2)
    dv = _per_head(_transposed(dropout(p, dropout_key, rate, _LENGTHS)), do, 3, 2)
    return *(_heads_first(t).astype(g.dtype) for t in (dq, dk, dv)), None, None


attention.defvjp(_attention_forward, _attention_backward)


def _heads_first(x: Any) -> Any:
    """Exchanges the second and the third axis: length and heads."""
    return x.transpose(0, 2, 1, 3)


def _per_head(a: Any, b: Any, i: int, j: int) -> Any:
    return jax.lax.dot_general(a, b, (((i,), (j,)), _BATCH_AND_HEAD), preferred_element_type=jnp.float32)


def dropout(x: Any, key: Any, rate: float, lengths: tuple[int, ...] = ()) -> Any:
    """Returns x·m / (1 - rate), m ~ Bernoulli(1 - rate) from `random_bits`; the same key drops the same elements."""
    if rate == 0:
        return x
    kept = random_bits(key, x.shape, lengths) < np.uint32(round((1 - rate) * 2**32))
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


@partial(jax.jit, static_argnums=(1, 2))  # traced once for each shape, not in every layer
def random_bits(key: Any, shape: tuple[int, ...], lengths: tuple[int, ...] = ()) -> Any:
    """Returns uint32 bits that are a pure function of the key and of each element's position.

    mix(position · odd + start), where mix is the multiply-xorshift of Wellons (https://github.com/skeeto/hash-prospector)
    and the key decides both numbers, so that the bits of two keys are no shifts of one another. Not for cryptography;
    for dropout they take the place of threefry's twenty rounds, which XLA on a CPU cannot fuse.

    Positions are counted as if each of the axes `lengths` were 512 long, or the next power of two, so that the bits of
    a token do not depend on how far its batch is padded.

    Args:
        key: uint32 (2,).
        shape: Of the result. With the axes `lengths` counted so, it has at most 2^32 elements: 2^14 pairs of row and
            head for attention over up to 512 tokens. Beyond, the first rows' bits come again.
        lengths: Axes that padding lengthens.
    """
    start = _mix(key[0] + _mix(key[1] ^ jnp.uint32(0x9E3779B9)))
    odd = _mix(key[1] + _mix(key[0] ^ jnp.uint32(0x85EBCA6B))) | jnp.uint32(1)
    counted = [_counted_length(size) if axis in lengths else size for axis, size in enumerate(shape)]
    # An iota for each axis, not one reshaped, so that a sharded array's bits are made where they are used.
    strides = np.cumprod([1, *counted[:0:-1]], dtype=np.uint32)[::-1]
    axes = [jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * (odd * stride) for axis, stride in enumerate(strides)]
    return _mix(sum(axes, start))


def _counted_length(size: int) -> int:
    return max(_LEAST_LENGTH, 1 << (size - 1).bit_length())


def _mix(bits: Any) -> Any:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)

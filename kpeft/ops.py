"""What is hot in a training step, in JAX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


def random_bits(key: Any, shape: tuple[int, ...]) -> Any:
    """Returns uint32 bits that are a pure function of the key and of each element's position.

    Two multiply-xorshift rounds (constants: Wellons, https://github.com/skeeto/hash-prospector) over the position, with
    half of the key added before each. Not for cryptography; for dropout they take the place of threefry's twenty
    rounds, which XLA on a CPU cannot fuse.

    Args:
        key: uint32 (2,).
        shape: Of the result; fewer than 2^32 elements.
    """
    position = jax.lax.iota(jnp.uint32, math.prod(shape))
    bits = _mix(position + _mix(key[0]))
    return _mix(bits + _mix(key[1] ^ jnp.uint32(0x9E3779B9))).reshape(shape)


def _mix(bits: Any) -> Any:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)

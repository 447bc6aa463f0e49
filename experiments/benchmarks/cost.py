"""What a training step must compute, and what this machine can compute at most."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """Sizes of an encoder."""

    layers: int
    width: int
    inner: int

    @property
    def linear(self) -> int:
        """Weights of the linear maps of all layers."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.inner)


def flops_per_token(encoder: Encoder, method: str, length: float) -> float:
    """Floating-point operations of one training step per token, the few of adapters, norms and activations left out.

    With P weights in the layers' linear maps, width d, L layers and sequences of n tokens, a pass forward costs
    2P + 4·L·d·n (scores and weighted sum). The gradient of the activations costs 2P and twice the attention again; the
    gradient of the kernels another 2P, which only full fine-tuning needs. A frozen encoder needs the pass forward.
    """
    products, attention = 2.0 * encoder.linear, 4.0 * encoder.layers * encoder.width * length
    if method == "head":
        return products + attention
    return (3 if method == "full" else 2) * products + 3 * attention


def measure_peak(dtype: str, size: int = 2048, repeats: int = 10) -> float:
    """FLOP/s of a product of two `size`² matrices that sums in float32, the best of `repeats`."""
    import jax
    import jax.numpy as jnp

    from kpeft.ops import matmul

    a = jnp.ones((size, size), dtype)
    product = jax.jit(matmul)
    jax.block_until_ready(product(a, a))
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - begun)
    return 2.0 * size**3 / best

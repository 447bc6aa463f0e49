"""What a training step must compute, and what a device can compute at most."""

from __future__ import annotations

import re
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

    def adapters(self, method: str, rank: int) -> int:
        """Weights of A and B on the maps that a LoRA method adapts, r·(in + out) each; 0 for other methods."""
        widths = {"lora": 4 * self.width, "lora_all_linear": 10 * self.width + 2 * self.inner}
        return self.layers * rank * widths.get(method, 0)


def flops_per_token(encoder: Encoder, method: str, length: float, rank: int = 0) -> float:
    """Floating-point operations of one training step per token, those of norms, activations and the head left out.

    With P weights in the layers' linear maps, width d, L layers and sequences of n tokens, a pass forward costs
    2P + 4·L·d·n (scores and weighted sum). The gradient of the activations costs 2P and twice the attention again; the
    gradient of the kernels another 2P, which only full fine-tuning needs. A frozen encoder needs the pass forward.
    LoRA's own weights A and B, W of them, add 6W; the default rank leaves them out.
    """
    products, attention = 2.0 * encoder.linear, 4.0 * encoder.layers * encoder.width * length
    if method == "head":
        return products + attention
    return (3 if method == "full" else 2) * products + 3 * attention + 6.0 * encoder.adapters(method, rank)


# Dense FLOP/s by the vendors' data sheets: bfloat16, float16 where the GPU has no matrix unit for bfloat16 (T4, V100).
_KNOWN_PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L4": 121e12,
    "T4": 65e12,
    "V100": 125e12,
}


def known_peak(device: str) -> float | None:
    """FLOP/s of a GPU in half precision by its name, `None` for one that is not in the table."""
    return next((peak for name, peak in _KNOWN_PEAKS.items() if re.search(rf"\b{name}\b", device)), None)


def measure_peak(dtype: str, size: int = 2048, repeats: int = 10, chain: int = 1) -> float:
    """FLOP/s of a product of two `size`² matrices that sums in float32, the best of `repeats`.

    Each repeat waits for `chain` products, so that the waiting does not count where one takes a millisecond. The
    numbers are random: a GPU multiplies zeros and ones faster, since that takes less power.
    """
    import jax

    from kpeft.ops import matmul

    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(matmul)
    jax.block_until_ready(product(a, a))
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready([product(a, a) for _ in range(chain)])
        best = min(best, time.perf_counter() - begun)
    return 2.0 * size**3 * chain / best

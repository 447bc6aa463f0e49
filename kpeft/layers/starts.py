"""Where the factors of a low-rank change start, as in Hugging Face PEFT.

`pissa` (Meng et al., 2024, https://arxiv.org/abs/2404.02948) and `olora` (Büyükakyüz, 2024,
https://arxiv.org/abs/2406.01775) take them out of the kernel, which keeps the rest.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

OUT_OF_KERNEL = ("pissa", "olora")
"""Starts that leave a residual in place of the kernel."""

Factors = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def start(name: str, matrix: np.ndarray[Any, Any], rank: int, scaling: float, seed: int | None) -> Factors:
    """Returns A (in, r) and B (r, out) of a start.

    * gaussian: A ~ N(0, 1/r²), B = 0
    * orthogonal: A = G Q_odd / 10, B = Q_evenᵀ H / 10 with the rows of a random orthogonal matrix Q taken in turn, and
      G (in, r/2), H (r/2, out) ~ N(0, 1), so that A B = 0 with both factors non-zero
    * pissa: A = U √(S/s), B = √(S/s) Vᵀ with the r largest singular values of W = U S Vᵀ
    * olora: A = Rᵀ, B = Qᵀ with the first r rows of R and columns of Q of Wᵀ = Q R

    Args:
        name: One of these.
        matrix: W (in, out).
        rank: r.
        scaling: s.
        seed: Decides the random ones.

    Raises:
        ValueError: If the name is none of these, or the rank is odd for `orthogonal`.
    """
    if name == "pissa":
        u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
        root = np.sqrt(s[:rank] / scaling)
        return u[:, :rank] * root, root[:, None] * vt[:rank]
    if name == "olora":
        q, r = np.linalg.qr(matrix.astype(np.float64).T)
        return r[:rank].T, q[:, :rank].T
    generator = keras.random.SeedGenerator(seed)

    def normal(*shape: int) -> np.ndarray[Any, Any]:
        return np.asarray(keras.ops.convert_to_numpy(keras.random.normal(shape, seed=generator)))

    if name == "gaussian":
        return normal(matrix.shape[0], rank) / rank, np.zeros((rank, matrix.shape[1]))
    if name != "orthogonal":
        raise ValueError(f"init must be default, gaussian, orthogonal, pissa or olora. Received: init={name!r}")
    if rank % 2:
        raise ValueError(f"init='orthogonal' needs an even rank. Received: rank={rank}")
    q = np.linalg.qr(normal(rank, rank))[0]
    a, b = normal(matrix.shape[0], rank // 2) @ q[0::2], q[1::2].T @ normal(rank // 2, matrix.shape[1])
    return a / 10, b / 10

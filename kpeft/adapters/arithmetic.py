"""Sums of several adapters' tensors: weighted, pruned, and with a majority's sign, as Hugging Face PEFT defines them.

Task arithmetic (Ilharco et al., 2022, https://arxiv.org/abs/2212.04089), TIES (Yadav et al., 2023,
https://arxiv.org/abs/2306.01708), DARE (Yu et al., 2023, https://arxiv.org/abs/2311.03099).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Draw = Callable[[int, tuple[int, ...]], Array]
"""Which entries of a tensor to keep: (its number, its shape) -> truth values."""

MAJORITIES = ("total", "frequency")


@dataclass(frozen=True)
class Rule:
    """What is done to the tensors before they are summed.

    Attributes:
        prunes: Which entries are dropped: `""` (none), `"magnitude"` (all but the largest) or `"random"`; what random
            pruning keeps is divided by the density.
        elects: Whether each entry is the mean over the tensors whose sign there is the majority's.
    """

    prunes: str = ""
    elects: bool = False


RULES: dict[str, Rule] = {
    "linear": Rule(),
    "magnitude_prune": Rule("magnitude"),
    "ties": Rule("magnitude", elects=True),
    "dare_linear": Rule("random"),
    "dare_ties": Rule("random", elects=True),
}


def weighted_sum(
    tensors: Sequence[Array], weights: Sequence[float], rule: Rule, density: float, majority: str, draw: Draw
) -> Array:
    """Returns Σ wᵢ·p(tᵢ), p being the rule's pruning; with an election Σ wᵢ·mᵢ·p(tᵢ) / max(1, Σ mᵢ).

    mᵢ is 1 where p(tᵢ) has the sign of the majority: of Σ p(tᵢ), or of the sum of signs, and + where that is 0.
    Weights have no part in the election.

    Args:
        tensors: tᵢ, of one shape.
        weights: wᵢ, of any sign.
        rule: One of `RULES`.
        density: Share of entries that pruning keeps, above 0 and at most 1.
        majority: `"total"` or `"frequency"`.
        draw: What random pruning keeps.
    """
    stack = np.stack([_pruned(tensor, rule, density, draw, i) for i, tensor in enumerate(tensors)])
    weighted = stack * np.asarray(weights, stack.dtype).reshape(-1, *[1] * (stack.ndim - 1))
    if not rule.elects:
        return np.asarray(weighted.sum(axis=0))
    signs = np.sign(stack)
    elected = np.where((stack if majority == "total" else signs).sum(axis=0) >= 0, 1, -1)
    follows = signs == elected
    return np.asarray((weighted * follows).sum(axis=0) / np.maximum(follows.sum(axis=0), 1).astype(stack.dtype))


def _pruned(tensor: Array, rule: Rule, density: float, draw: Draw, number: int) -> Array:
    if not rule.prunes or density == 1:
        return tensor
    if rule.prunes == "random":
        return tensor * draw(number, tensor.shape) / np.asarray(density, tensor.dtype)
    kept = np.zeros(tensor.size, tensor.dtype)
    kept[np.argsort(-np.abs(tensor), axis=None, kind="stable")[: int(density * tensor.size)]] = 1
    return tensor * kept.reshape(tensor.shape)


def factorized(change: Array, rank: int, clamp: float | None) -> tuple[Array, Array]:
    """Splits a change into B·A of a given rank by its singular value decomposition U·S·Vᵀ: A = Vᵀ and B = U·S, cut off.

    Args:
        change: (out, in).
        rank: At most min(out, in).
        clamp: Cut the entries of A and B off at plus and minus this quantile of all of them.

    Returns:
        A, (rank, in), and B, (out, rank).
    """
    u, s, vt = np.linalg.svd(change, full_matrices=False)
    a, b = vt[:rank], u[:, :rank] * s[:rank]
    if clamp is None:
        return a, b
    limit = np.quantile(np.concatenate([b.ravel(), a.ravel()]), clamp).astype(change.dtype)
    return np.minimum(np.maximum(a, -limit), limit), np.minimum(np.maximum(b, -limit), limit)

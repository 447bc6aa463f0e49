"""AdaLoRA's budget: which parts of low-rank changes stay as training goes on, as optax transformations.

Zhang et al., 2023, https://arxiv.org/abs/2303.10512
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kpeft.methods import RankBudget


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Allocation:
    """A `RankBudget` for a list of variables and a number of updates; all of it is numbers.

    With w a weight after update k, counted from 1, and g its gradient, clipped::

        I <- beta1 I + (1 - beta1) |w g|,    U <- beta2 U + (1 - beta2) ||w g| - I|
        score of (A's column i, e_i, B's row i) = (I U)(e_i) + mean (I U)(A_i) + mean (I U)(B_i)

    Of all n triplets of all layers, the budget b_k stays: n up to update `start`, the target b at update `end` and
    between them b + (n - b)(1 - (k - start) / (end - start))^3, rounded down. At each `every`-th of these updates and
    at `end` the e of the n - b_k with the lowest scores is set to zero. Before `end` it can grow again; from then on
    what is zero stays zero. This is Hugging Face PEFT's RankAllocator, where `update_and_allocate(k)` follows update k;
    of equal scores, which PEFT drops all at once, the first go.

    Attributes:
        triplets: Of each layer, which of the variables are A (*in, r), e (r) and B (r, *out).
        target_rank: b over the number of layers.
        start: The last update before any can fall out.
        end: The update from which on nothing changes.
        every: From one choice to the next.
        beta1: Decay of I.
        beta2: Decay of U.
        orth_reg_weight: Weight of the mean of ||P Pᵀ - I|| over all Aᵀ and B in the loss.
    """

    triplets: tuple[tuple[int, int, int], ...]
    target_rank: int
    start: int
    end: int
    every: int
    beta1: float
    beta2: float
    orth_reg_weight: float

    def cuts(self, triplets: int) -> np.ndarray[Any, Any]:
        """Returns the update from which on one triplet less may stay, for each that falls out of so many."""
        target, span = self.target_rank * len(self.triplets), self.end - self.start
        updates = range(self.start + 1, self.end + 1)
        # In Python's own numbers, step by step as PEFT does it: rounded down, the last bit can matter.
        shares = [1 - (update - self.start) / span for update in updates]
        fallen = [triplets - int((triplets - target) * share**3 + target) for share in shares]
        return np.searchsorted(fallen, np.arange(1, triplets - target + 1)) + self.start + 1


def allocation_of(paths: Iterable[str], budget: RankBudget, updates: int) -> Allocation:
    """Returns a budget for the variables at some paths, in their order, and a run of so many updates.

    Raises:
        ValueError: If its phases leave no update in which ranks could shrink.
    """
    start, end = _steps(budget.tinit, updates), updates - _steps(budget.tfinal, updates)
    if start >= end:
        raise ValueError(
            f"tinit={budget.tinit:g} and tfinal={budget.tfinal:g} leave none of the run's {updates} steps for ranks to "
            "shrink: make them smaller, or train for longer."
        )
    places = {path: index for index, path in enumerate(paths)}
    return Allocation(
        triplets=tuple((places[a], places[e], places[b]) for a, e, b in budget.triplets),
        target_rank=budget.target_rank,
        start=start,
        end=end,
        every=budget.delta_t,
        beta1=budget.beta1,
        beta2=budget.beta2,
        orth_reg_weight=budget.orth_reg_weight,
    )


def _steps(length: float, updates: int) -> int:
    # Shares are rounded down, so that two which leave something of a run leave at least one update.
    return int(length * updates if length < 1 else length)


def keeping_orthogonal(allocation: Allocation) -> optax.GradientTransformation:
    """Adds the gradient of the orthogonality's part of the loss to that of the rest."""

    def update(gradients: Any, parameters: Any) -> Any:
        places = [place for a, _, b in allocation.triplets for place in (a, b)]
        pulls = jax.grad(lambda factors: allocation.orth_reg_weight * _distance(factors))(
            [parameters[place] for place in places]
        )
        summed = list(gradients)
        for place, pull in zip(places, pulls, strict=True):
            summed[place] = summed[place] + pull
        return summed

    return optax.stateless(update)


def _distance(factors: Sequence[Any]) -> Any:
    """The mean of ||P Pᵀ - I|| over A, B, A, B …, each as a matrix P (r, features)."""
    matrices = [
        jnp.reshape(factor, (-1, factor.shape[-1])).T if index % 2 == 0 else jnp.reshape(factor, (factor.shape[0], -1))
        for index, factor in enumerate(factors)
    ]
    gaps = [jnp.matmul(p, p.T, precision="highest") - jnp.eye(len(p), dtype=p.dtype) for p in matrices]
    # At zero a norm has no gradient; the lower bound gives it zero, not NaN.
    return sum(jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(gap)), 1e-30)) for gap in gaps) / len(gaps)


class _State(NamedTuple):
    count: Any  # updates so far
    sensitivity: Any  # I, shaped as the variables; zero for those in no triplet
    uncertainty: Any  # U, likewise
    inner: Any


def within_budget(inner: optax.GradientTransformation, allocation: Allocation) -> optax.GradientTransformation:
    """Sets e to zero where the budget wants it, in place of what `inner` makes of it.

    Args:
        inner: Makes the whole update out of clipped gradients.
        allocation: The budget.
    """
    used = [place for triplet in allocation.triplets for place in triplet]

    def init(parameters: Any) -> _State:
        sensitivity, uncertainty = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
        return _State(jnp.zeros([], jnp.int32), sensitivity, uncertainty, inner.init(parameters))

    def update(gradients: Any, state: _State, parameters: Any = None) -> tuple[Any, _State]:
        updates, inner_state = inner.update(gradients, state.inner, parameters)
        count = optax.safe_increment(state.count)
        after = optax.apply_updates(parameters, updates)
        sensitivity, uncertainty = list(state.sensitivity), list(state.uncertainty)
        for place in used:
            now, old, spread = jnp.abs(after[place] * gradients[place]), sensitivity[place], uncertainty[place]
            mean = allocation.beta1 * old + (1 - allocation.beta1) * now
            spread_now = allocation.beta2 * spread + (1 - allocation.beta2) * jnp.abs(now - mean)
            open_still = count < allocation.end
            sensitivity[place] = jnp.where(open_still, mean, old)
            uncertainty[place] = jnp.where(open_still, spread_now, spread)
        scores = [s * u for s, u in zip(sensitivity, uncertainty, strict=True)]
        updates = list(updates)
        for (_, e, _), dropped in zip(
            allocation.triplets, _dropped(allocation, count, scores, parameters), strict=True
        ):
            updates[e] = jnp.where(dropped, -parameters[e], updates[e])
        return updates, _State(count, sensitivity, uncertainty, inner_state)

    return optax.GradientTransformation(init, update)


def _dropped(allocation: Allocation, count: Any, scores: Sequence[Any], parameters: Sequence[Any]) -> list[Any]:
    """Which e an update sets to zero, (r,) for each layer."""
    by_layer = [_of_triplets(*(scores[place] for place in triplet)) for triplet in allocation.triplets]
    flat = jnp.concatenate(by_layer)
    ranking = jnp.argsort(jnp.argsort(flat))  # 0 is the lowest score
    lowest = ranking < jnp.sum(allocation.cuts(flat.size) <= count)
    chosen = (count > allocation.start) & (count < allocation.end) & (count % allocation.every == 0)
    chosen |= count == allocation.end
    ends = np.cumsum([len(each) for each in by_layer])[:-1]
    return [
        jnp.where(chosen, low, (count > allocation.end) & (parameters[e] == 0))
        for (_, e, _), low in zip(allocation.triplets, jnp.split(lowest, ends), strict=True)
    ]


def _of_triplets(a: Any, e: Any, b: Any) -> Any:
    """The scores of one layer's triplets, (r,), from those of its weights."""
    rank = e.shape[0]
    return e + jnp.reshape(a, (-1, rank)).mean(axis=0) + jnp.reshape(b, (rank, -1)).mean(axis=1)

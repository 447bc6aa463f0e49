"""Compacter: bottleneck adapters whose two linear maps are sums of Kronecker products of small matrices.

Karimi Mahabadi et al., 2021, https://arxiv.org/abs/2106.04647
"""

from __future__ import annotations

import math
import zlib
from typing import Any, Self

import keras
from keras import ops

from kpeft.layers.bottleneck import SequentialBottleneck
from kpeft.layers.linear import full, linear


@keras.saving.register_keras_serializable("kpeft")
class HypercomplexRule(keras.layers.Layer):
    """The matrices A_1 … A_n that Compacter adapters share, (n, n, n) in all; they start at N(0, 1/n).

    Args:
        phm_dim: n.
        seed: Seed of the start.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, phm_dim: int = 4, seed: int | None = None, **kwargs: Any) -> None:
        if phm_dim < 1:
            raise ValueError(f"phm_dim must be at least 1. Received: phm_dim={phm_dim}")
        super().__init__(**kwargs)
        self.phm_dim = phm_dim
        self.seed = seed
        normal = keras.initializers.RandomNormal(stddev=1 / math.sqrt(phm_dim), seed=seed)
        shape = (phm_dim, phm_dim, phm_dim)
        self.phm_rule = self.add_weight(name="phm_rule", shape=shape, initializer=normal, autocast=False)
        self.built = True  # it takes no input

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "phm_dim": self.phm_dim, "seed": self.seed}


@keras.saving.register_keras_serializable("kpeft")
class CompacterBottleneck(SequentialBottleneck):
    """A Compacter adapter behind a layer: `SequentialBottleneck` with parametrised hypercomplex maps.

    Both D and U are::

        W = Σ_i A_i ⊗ (s_i t_i),    W[(a, c), (b, d)] = Σ_i A_i[a, b] (s_i t_i)[c, d]

    with A (n, n, n) the rule's, the same for both maps and for all adapters that share it, as in the authors' code, and
    each map's own s (n, in/n, r) and t (n, r, out/n). W is never formed: x goes through s, then through A and t at
    once, or, where x is the narrower side, through s and A at once, then through t.

    s and t start uniform within Glorot's bounds; with the rule's start, D then has about the variance that Glorot gives
    a dense one. U's t and the biases start at zero, so that a model starts out as it was. (The authors start A at
    N(0, 1e-4²) and no factor at zero.) All have the layer's variable dtype.

    Args:
        base: Any layer with one output, of a width that n divides.
        rule: A; give the same one to several layers.
        rank: r.
        size: See `BottleneckLayer`; n must divide it. So are `activation`, `scale`, `gated` and `seed`.
        **kwargs: Of `SequentialBottleneck`.

    Example:
        >>> rule = HypercomplexRule(4)
        >>> hidden = CompacterBottleneck(keras.layers.Dense(128), rule=rule, size=8)
        >>> output = CompacterBottleneck(keras.layers.Dense(64), rule=rule, size=8)
    """

    def __init__(self, base: Any, *, rule: HypercomplexRule, rank: int = 1, size: int = 24, **kwargs: Any) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        super().__init__(base, size=size, **kwargs)
        self.rule = rule
        self.rank = rank

    def add_down_map(self, features: int) -> None:
        n = self.rule.phm_dim
        if features % n or self.size % n:
            raise ValueError(
                "phm_dim must divide the size of Compacter adapters and the features of the layers they stand behind. "
                f"Received: phm_dim={n}, size={self.size}, and {features} features of layer {self.base.path}"
            )
        self.down_left = self._factor("down_left", features)
        self.down_right = self._factor("down_right", self.size)

    def add_up_map(self, features: int) -> None:
        self.up_left = self._factor("up_left", self.size)
        self.up_right = self._factor("up_right", features)

    def map_down(self, x: Any) -> Any:
        return self._map(x, self.down_left, self.down_right)

    def map_up(self, hidden: Any) -> Any:
        return self._map(hidden, self.up_left, self.up_right)

    def _factor(self, name: str, features: int) -> Any:
        """Makes s (n, features/n, r) of a map, or t (n, r, features/n)."""
        n, part = self.rule.phm_dim, features // self.rule.phm_dim
        shape = (n, part, self.rank) if name.endswith("left") else (n, self.rank, part)
        bound = math.sqrt(6 / (part + self.rank))
        # A seed for each factor: from one and the same they would start with the same numbers.
        seed = None if self.seed is None else zlib.crc32(f"{self.seed}/{name}".encode())
        start = "zeros" if name == "up_right" else keras.initializers.RandomUniform(-bound, bound, seed=seed)
        return self.add_weight(name=name, shape=shape, initializer=start, autocast=False)

    def _map(self, x: Any, left: Any, right: Any) -> Any:
        """Returns x W, (…, out), by way of two products with small matrices; A goes with the narrower side's."""
        rule, left, right = full(self.rule.phm_rule), full(left), full(right)
        (n, m, r), q = left.shape, right.shape[-1]
        rows = tuple(ops.shape(x)[:-1])
        if m < q:
            hidden = linear(x, ops.reshape(ops.einsum("iab,icr->acbir", rule, left), (n * m, n * n * r)))
            hidden, last = ops.reshape(hidden, (*rows, n, n * r)), ops.reshape(right, (n * r, q))
        else:
            first = ops.reshape(ops.transpose(left, (1, 0, 2)), (m, n * r))
            hidden = ops.reshape(linear(ops.reshape(x, (*rows, n, m)), first), (*rows, n * n * r))
            last = ops.reshape(ops.einsum("iab,ird->airbd", rule, right), (n * n * r, n * q))
        return ops.reshape(linear(ops.cast(hidden, self.compute_dtype), last), (*rows, n * q))

    def get_config(self) -> dict[str, Any]:
        # Keras serialises the rule, and notes there that layers share it.
        return {**super().get_config(), "rule": self.rule, "rank": self.rank}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        rule = config["rule"]
        if not isinstance(rule, HypercomplexRule):
            rule = keras.saving.deserialize_keras_object(rule)
        return super().from_config({**config, "rule": rule})

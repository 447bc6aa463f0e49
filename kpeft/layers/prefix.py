"""Prefix tuning: learned keys and values in every attention layer (Li & Liang, 2021, https://arxiv.org/abs/2101.00190).

P-tuning v2 (Liu et al., 2021, https://arxiv.org/abs/2110.07602) is the same for encoders.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.fast import FastDropout
from kpeft.layers.gate import InputGate
from kpeft.layers.linear import full
from kpeft.layers.p_tuning import dense


@keras.saving.register_keras_serializable("kpeft")
class PrefixProjection(keras.layers.Layer):
    """What the prefixes of all layers are projected from: h = tanh(E W + b), (n, hidden), in float32.

    Args:
        tokens: Number n of virtual tokens.
        width: Width of E, whose rows start at N(0, 1).
        hidden: Width of h.
        seed: Seed of the start.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, tokens: int, width: int, hidden: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.tokens = tokens
        self.width = width
        self.hidden = hidden
        self.seed = seed
        self.dense = dense(width, hidden, "first", seed, activation="tanh")
        start = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        self.embedding = self.add_weight(name="embedding", shape=(self.tokens, self.width), initializer=start)
        self.dense.build((self.tokens, self.width))
        self.built = True  # it takes no input

    def rows(self) -> Any:
        """Returns h."""
        return self.dense(full(self.embedding))

    def get_config(self) -> dict[str, Any]:
        own = {"tokens": self.tokens, "width": self.width, "hidden": self.hidden, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("kpeft")
class PrefixAttention(AdapterLayer):
    """Attention that sees n learned keys and values, P_k and P_v, before its own: attention(q, [P_k; k], [P_v; v]).

    While the gate is closed they are masked out. The prefix is (n, 2, heads, head_dim), keys before values; it is a
    variable or, with a projection, h W + b, where h is the projection's output. If gated, each row sees G(x)·P_k and
    G(x)·P_v, where x is what attention's query is made from, and G `kpeft.layers.InputGate`'s.

    It takes the masks that Keras's attention takes, and those that inputs carry.

    Args:
        base: A `keras.layers.MultiHeadAttention`, without a gate of its own or a sliding window; built or not.
        tokens: Number n of virtual tokens.
        projection: Makes h, (n, hidden); several layers may share one.
        dropout: Share of the prefix that is dropped in training, anew for each row.
        gated: Scale each row's prefix by a gate.
        seed: Seed of the prefix's start, N(0, 1), of W and b, of the gate, and of the dropout.
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(
        self,
        base: Any,
        *,
        tokens: int,
        projection: PrefixProjection | None = None,
        dropout: float = 0.0,
        gated: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(base, keras.layers.MultiHeadAttention):
            raise ValueError(f"PrefixAttention wraps a keras.layers.MultiHeadAttention. Received: {base!r}")
        if base.value_dim != base.key_dim:
            raise ValueError(
                f"PrefixAttention needs keys and values of one width. Received: {base.key_dim} and {base.value_dim}"
            )
        if base.get_config().get("use_gate") or base.get_config().get("sliding_window") is not None:
            raise ValueError(
                f"PrefixAttention needs attention without use_gate and sliding_window; layer {base.name!r} has one."
            )
        super().__init__(base, **kwargs)
        self.tokens = tokens
        self.projection = projection
        self.dropout_rate = dropout
        self.gated = gated
        self.seed = seed
        self.dropout = FastDropout(dropout, seed=seed, dtype="float32", name="dropout")
        if projection is not None:
            self.last = dense(projection.hidden, 2 * base.num_heads * base.key_dim, "last", seed)

    def build(  # attention's inputs are several
        self, query_shape: Any, value_shape: Any = None, key_shape: Any = None
    ) -> None:
        if not self.base.built:
            self.base.build(query_shape, query_shape if value_shape is None else value_shape, key_shape)
        super().build(query_shape)

    def build_adapter(self) -> None:
        if self.gated:
            self.input_gate = InputGate(seed=self.seed, dtype=self.dtype_policy, name="input_gate")
            self.input_gate.build(self.base.get_build_config()["shapes_dict"]["query_shape"])
        if self.projection is not None:
            self.last.build((self.tokens, self.projection.hidden))
            return
        start = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        shape = (self.tokens, 2, self.base.num_heads, self.base.key_dim)
        self.own_prefix = self.add_weight(name="prefix", shape=shape, initializer=start, dtype="float32")

    def prefix(self) -> Any:
        """Returns keys and values, (n, 2, heads, head_dim)."""
        if self.projection is None:
            return full(self.own_prefix)
        shape = (self.tokens, 2, self.base.num_heads, self.base.key_dim)
        return ops.reshape(self.last(self.projection.rows()), shape)

    def call(
        self,
        query: Any,
        value: Any,
        key: Any = None,
        query_mask: Any = None,
        value_mask: Any = None,
        key_mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        base, rows = self.base, ops.shape(query)[0]
        attention_mask = base._compute_attention_mask(
            query,
            value,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
        )
        if query_mask is not None:  # the projections take no masks: copies leave them behind
            query = ops.copy(query)
        if value_mask is not None:
            value = ops.copy(value)
        if key_mask is not None:
            key = ops.copy(key)
        q = base.query_dense(query)
        k = base.key_dense(value if key is None else key)
        v = base.value_dense(value)
        prefix = ops.broadcast_to(self.prefix(), (rows, self.tokens, 2, base.num_heads, base.key_dim))
        if self.gated:
            prefix = self.input_gate(query, ndim=5) * prefix
        prefix = self.dropout(ops.reshape(prefix, (rows, -1)), training=training)
        prefix = ops.cast(ops.reshape(prefix, (rows, self.tokens, 2, base.num_heads, base.key_dim)), k.dtype)
        k_first, v_first = prefix[:, :, 0], prefix[:, :, 1]
        if attention_mask is None:
            attention_mask = ops.ones((rows, 1, ops.shape(k)[1]), "bool")
        mask = ops.cast(attention_mask, "bool")
        # A causal mask has one row for all, a mask of the queries one column.
        mask = ops.broadcast_to(mask, (rows, *ops.shape(mask)[1:-1], ops.shape(k)[1]))
        on = ops.broadcast_to(self.gate > 0, (*ops.shape(mask)[:-1], self.tokens))
        output, scores = base._compute_attention(
            q,
            ops.concatenate([k_first, k], axis=1),
            ops.concatenate([v_first, v], axis=1),
            ops.concatenate([on, mask], axis=-1),
            training=training,
            return_attention_scores=return_attention_scores,
        )
        output = base.output_dense(output)
        return (output, scores) if return_attention_scores else output

    def compute_output_shape(  # type: ignore[override]  # attention's inputs are several
        self, query_shape: Any, value_shape: Any, key_shape: Any = None
    ) -> Any:
        return self.base.compute_output_shape(query_shape, value_shape, key_shape)

    def get_config(self) -> dict[str, Any]:
        own = {"tokens": self.tokens, "dropout": self.dropout_rate, "gated": self.gated, "seed": self.seed}
        # Keras serialises the projection, and notes there that layers share it.
        return {**super().get_config(), **own, "projection": self.projection}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        projection = config["projection"]
        if isinstance(projection, dict):
            projection = keras.saving.deserialize_keras_object(projection)
        return super().from_config({**config, "projection": projection})

"""Soft prompts: learned vectors among the word embeddings (Lester et al., 2021, https://arxiv.org/abs/2104.08691)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.linear import full

STARTS = ("random", "vocabulary")


@keras.saving.register_keras_serializable("kpeft")
class PromptEmbedding(AdapterLayer):
    """Puts `tokens` learned vectors among the embeddings of a sequence: y = [e_0 … e_k-1, p_0 … p_n-1, e_k …].

    The layer also lengthens the padding mask, by its gate: 1 at the virtual tokens while the prompt is on, 0 while it
    is off, so that no real token attends to them.

    Args:
        base: The embedding of token ids (batch, length) -> (batch, length, d).
        tokens: Number n of virtual tokens.
        index: Number k of real tokens before the first of them.
        init: Where the vectors start: `"random"`, from N(0, 1) as in Hugging Face PEFT, or `"vocabulary"`, from the
            embeddings of random tokens.
        seed: Seed of that start.
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(
        self,
        base: Any,
        *,
        tokens: int = 20,
        index: int = 0,
        init: str = "random",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if tokens < 1:
            raise ValueError(f"tokens must be at least 1. Received: tokens={tokens}")
        if init not in STARTS:
            raise ValueError(f"init must be one of {', '.join(STARTS)}. Received: init={init!r}")
        super().__init__(base, **kwargs)
        self.tokens = tokens
        self.index = index
        self.init = init
        self.seed = seed

    def build_adapter(self) -> None:
        self.embedding = self.add_weight(
            name="prompt", shape=(self.tokens, self.base.output_dim), initializer=self._start, dtype="float32"
        )

    def _start(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        if self.init == "random":
            return keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)(shape, dtype)
        rows = keras.random.randint((shape[0],), 0, self.base.input_dim, seed=self.seed)
        return ops.cast(self.base(rows), dtype)

    def prompt(self, training: bool | None = None) -> Any:
        """Returns the virtual tokens, (n, d)."""
        return full(self.embedding)

    def call(self, token_ids: Any, padding_mask: Any, training: bool | None = None) -> tuple[Any, Any]:
        """Returns the longer embeddings, (batch, length + n, d), and their padding mask."""
        embedded = self.base(token_ids)
        rows, k = ops.shape(token_ids)[0], self.index
        prompt = ops.cast(self.prompt(training), embedded.dtype)
        prompt = ops.broadcast_to(ops.expand_dims(prompt, 0), (rows, *prompt.shape))
        mask = ops.cast(ops.broadcast_to(self.gate, (rows, self.tokens)), padding_mask.dtype)
        return (
            ops.concatenate([embedded[:, :k], prompt, embedded[:, k:]], axis=1),
            ops.concatenate([padding_mask[:, :k], mask, padding_mask[:, k:]], axis=1),
        )

    def compute_output_spec(self, token_ids: Any, padding_mask: Any, training: bool | None = None) -> Any:
        rows, length = token_ids.shape
        longer = None if length is None else length + self.tokens
        return (
            keras.KerasTensor((rows, longer, self.base.output_dim), self.compute_dtype),
            keras.KerasTensor((rows, longer), padding_mask.dtype),
        )

    def get_config(self) -> dict[str, Any]:
        own = {"tokens": self.tokens, "index": self.index, "init": self.init, "seed": self.seed}
        return {**super().get_config(), **own}


def is_position_embedding(layer: Any) -> bool:
    """Whether a layer is a `keras_hub.layers.PositionEmbedding`."""
    return any(kind.__name__ == "PositionEmbedding" for kind in type(layer).__mro__)


@keras.saving.register_keras_serializable("kpeft")
class ShiftedPositions(AdapterLayer):
    """Position embeddings that make room for `tokens` virtual tokens, while they are on.

    The first `leading` tokens, the virtual ones included, take the positions 0 … leading - 1. The real tokens after
    them go on from there, or from leading - tokens where the gate is closed. With no leading tokens (prefix tuning,
    whose virtual tokens are not in the sequence) they start at `tokens`, or at 0.

    Args:
        base: A `keras_hub.layers.PositionEmbedding`.
        tokens: Number n of virtual tokens.
        leading: Number of tokens up to the last virtual one.
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(self, base: Any, *, tokens: int, leading: int = 0, **kwargs: Any) -> None:
        super().__init__(base, **kwargs)
        self.tokens = tokens
        self.leading = leading

    def build_adapter(self) -> None:
        pass

    def call(self, inputs: Any, start_index: int = 0, positions: None = None) -> Any:
        length, most = inputs.shape[1], self.base.sequence_length
        virtual = 0 if self.leading else self.tokens
        if length is not None and length + virtual > most:
            raise ValueError(
                f"{self.tokens} virtual tokens leave room for rows of at most {most - self.tokens} tokens; the model "
                f"has {most} positions. Received: rows of {length + virtual - self.tokens}"
            )
        shift = ops.cast(ops.round(self.gate * self.tokens), "int32")
        if not self.leading:
            return self.base(inputs, start_index=start_index + shift)
        start = self.leading - self.tokens + shift
        first = self.base(inputs[:, : self.leading])
        return ops.concatenate([first, self.base(inputs[:, self.leading :], start_index=start)], axis=1)

    def compute_output_spec(self, inputs: Any, start_index: int = 0, positions: None = None) -> Any:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "tokens": self.tokens, "leading": self.leading}
